#!/bin/sh
# The main job on the embedded phantom, five plain commands. Each can be run alone, and again: finished work is kept.
# usage: training/quickstart.sh [FOLDER OF PYTHON] [OUTPUT FOLDER]
set -eu
bin=${1:-.venv/bin}
out=${2:-outputs/quickstart}

run() {
    printf '\n\033[1m%s/5  %s\033[0m\n$ %s\n' "$1" "$2" "$3"
    PATH="$bin:$PATH" sh -c "$3"
}

run 1 "Phantom: chest CTs as DICOM series, with readers' XML" \
    "python dataset_scripts/make_phantom.py $out/raw"
run 2 "Dataset: DICOM and XML to Parquet, as load_dataset reads it" \
    "python dataset_scripts/build_lidc_idri.py $out/raw $out/dataset"
run 3 "Pretraining: DINO + iBOT + KoLeo, then Gram anchoring" \
    "accelerate launch --config_file accelerate_configs/cpu.yaml training/pretrain.py --data.folder=$out/dataset --output=$out/run --resume=auto"
run 4 "Evaluation: frozen features beside their controls" \
    "python training/evaluate.py $out/run --seeds 3"
run 5 "Publishing: a folder for the Hub, loaded back without this package" \
    "python training/publish.py $out/run $out/hub"

cat <<END

Done. Look at
  $out/run/evaluation/report.html        what the backbone learned, beside its controls (as text: report.md)
  $out/run/evaluation/figures/           its figures as PNG and SVG
  $out/run/pictures/                     what the teacher told apart while it learned
  $out/hub/README.md                     the model card; the folder is ready for the Hub
  $out/dataset/README.md                 the dataset card
Load it:  python -c "from transformers import AutoModel; print(AutoModel.from_pretrained('$out/hub').config.hidden_size)"
END
