"""Focal loss for ONNX models.

:func:`attach` adds the loss to an exported detector, :func:`inspect` finds its logits, :func:`fuse` replaces a loss
that is spelled out in standard operators, :func:`register` gives ONNX Runtime the kernels, :func:`add_functions` puts
the portable functions into a model that already uses the operators, and :mod:`focal_loss_onnx.reference` computes the
same in NumPy.
"""

from .attach import attach
from .errors import AttachError, FuseError, ModelError, TracedToLogitsWarning
from .functions import PortableFunctionError, add_functions, portable_function
from .fuse import FusedLoss, FuseReport, LeftAlone, fuse
from .inspection import Candidate, inspect
from .library import LibraryNotFound, library_path, register
from .operators import DOMAIN, OPERATORS, VERSION

__version__ = "0.1.0"

__all__ = [
    "DOMAIN",
    "OPERATORS",
    "VERSION",
    "AttachError",
    "Candidate",
    "FuseError",
    "FuseReport",
    "FusedLoss",
    "LeftAlone",
    "LibraryNotFound",
    "ModelError",
    "PortableFunctionError",
    "TracedToLogitsWarning",
    "add_functions",
    "attach",
    "fuse",
    "inspect",
    "library_path",
    "portable_function",
    "register",
]
