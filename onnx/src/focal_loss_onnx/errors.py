"""What goes wrong when a loss is attached, and what is worth saying when it does not."""


class AttachError(ValueError):
    """The loss cannot be attached; the message says why and what to pass instead."""


class TracedToLogitsWarning(UserWarning):
    """A name that was given is a probability; the logits behind it are used."""
