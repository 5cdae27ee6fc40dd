"""Figures of merit: keypoints (PCK), dense flow (TSS), label transfer (Caltech-101), and their means over pairs.

Every name says what it measures, and a figure's printed name what it is relative to. Everything here runs on the host
in float64 and takes NumPy arrays, JAX arrays and lists alike.
"""

from rtn_jax.metrics.figures import Figure
from rtn_jax.metrics.flow import endpoint_error, flow_accuracy, known_flow, rescale_flow
from rtn_jax.metrics.keypoints import PCK_KINDS, PckKind, correct_points, pck, pck_length, pck_name, point_errors
from rtn_jax.metrics.masks import intersection_over_union, label_accuracy, localization_error, transfer_mask

__all__ = [
    "PCK_KINDS",
    "Figure",
    "PckKind",
    "correct_points",
    "endpoint_error",
    "flow_accuracy",
    "intersection_over_union",
    "known_flow",
    "label_accuracy",
    "localization_error",
    "pck",
    "pck_length",
    "pck_name",
    "point_errors",
    "rescale_flow",
    "transfer_mask",
]
