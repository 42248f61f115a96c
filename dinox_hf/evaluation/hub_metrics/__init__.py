"""Our metrics as `evaluate.Metric` classes, loaded by path and without network.

    evaluate.load("dinox_hf/evaluation/hub_metrics/auroc.py").compute(predictions=scores, references=labels)

`evaluate` copies such a file into its cache and imports it from there, so each holds one class and reaches the plain
functions of `dinox_hf.metrics` by their absolute names.
"""
