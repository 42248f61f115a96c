"""Pure tensor functions of the self-distillation recipe; they know no configuration and no model."""
