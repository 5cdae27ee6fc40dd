"""The losses of the first steps on fixed data, as they were when somebody last looked at them."""

from __future__ import annotations

import pytest

from tests.training import reference

GOLDEN = {  # stage: (loss before, after one, after three updates), norm of the first gradient
    "synthetic": ((0.183237, 0.173602, 0.170071), 0.375116),
    "weak": ((77.0370, 76.9651, 76.6667), 8.29297),
}
WHEN = """
The first steps of the {stage} stage are not what they were:
  losses before, after one and after three updates: {losses}
  norm of the first gradient: {norm:.6g}
If network, losses, warps, colours, optimiser or the recipes in reference.py were changed on purpose, put these numbers
into GOLDEN in {file} and say in CHANGELOG.md what changed: runs of the version before it cannot be
repeated. If not, this is a defect."""


@pytest.mark.parametrize("stage", list(GOLDEN))
def test_the_first_steps_are_what_they_were(stage):
    """Rounding, which differs between versions of JAX and machines, moves these numbers by less than 1e-5 of them."""
    made = reference.run(stage)
    losses, norm = tuple(made[i].metrics["loss"] for i in (0, 1, 3)), made[0].metrics["gradient_norm"]
    shown = ", ".join(f"{loss:.6g}" for loss in losses)
    message = WHEN.format(stage=stage, losses=shown, norm=norm, file="tests/training/test_golden.py")
    golden, golden_norm = GOLDEN[stage]
    assert losses == pytest.approx(golden, rel=2e-5), message
    assert norm == pytest.approx(golden_norm, rel=1e-3), message
