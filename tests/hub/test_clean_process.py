import pytest

from dinox_hf.hub.clean_process import run_in_clean_process


def test_our_package_cannot_be_imported_in_a_clean_process(tmp_path):
    script = tmp_path / "reach.py"
    script.write_text("import dinox_hf.model")
    with pytest.raises(RuntimeError, match=r"reach\.py.*exit code 1"):
        run_in_clean_process(script, folder=tmp_path)


def test_a_clean_process_gets_its_arguments_and_folder(tmp_path):
    script = tmp_path / "echo.py"
    script.write_text("import os, sys; print(sys.argv[1:], os.path.basename(os.getcwd()))")
    assert (
        run_in_clean_process(script, "a", tmp_path / "b", folder=tmp_path)
        == f"['a', '{tmp_path}/b'] {tmp_path.name}\n"
    )
