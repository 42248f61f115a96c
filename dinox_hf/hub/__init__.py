"""From a finished run to a folder that `AutoModel.from_pretrained` loads: export, model card, checks."""
