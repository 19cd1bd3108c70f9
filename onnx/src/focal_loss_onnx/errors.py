"""What goes wrong when a loss is attached or fused, and what is worth saying when it does not."""


class AttachError(ValueError):
    """The loss cannot be attached; the message says why and what to pass instead."""


class TracedToLogitsWarning(UserWarning):
    """A name that was given is a probability; the logits behind it are used."""


class FuseError(ValueError):
    """A spelled-out loss cannot be replaced; the message says why."""


class ModelError(ValueError):
    """The model is damaged: it cannot be read as what ONNX says a model is; the message says where."""
