"""What a tumour looks like on T1, T1 with gadolinium, T2 and FLAIR, white matter being 1."""

from __future__ import annotations

from .anatomy import Head
from .clinical import Patient
from .fields import Array
from .tumour import Tumour

# T1, T1Gd, T2, FLAIR of tissues that look alike in all gliomas.
_OEDEMA = (0.82, 0.83, 1.55, 1.50)
_NECROSIS = (0.60, 0.60, 2.00, 0.80)
_CALCIFICATION = (0.85, 0.85, 0.55, 0.60)


def paint(patient: Patient, head: Head, tumour: Tumour) -> Array:
    """Signals of the head with its tumour, shape (4, voxels), from the outermost compartment inwards."""
    core = (patient.look.t1_core, patient.look.t1gd_core, patient.look.t2_core, patient.look.flair_core)
    enhancing = (patient.look.t1_core, patient.look.t1gd_et, 0.9 * patient.look.t2_core, 1.25)
    # A mismatch core is homogeneous, any other is as rough as tumours are.
    roughness = 0.02 if patient.look.mismatch else 0.09
    painted = head.signal.copy()
    for sequence in range(4):
        image = painted[sequence]
        _blend(image, tumour.whole, _OEDEMA[sequence] * (1.0 + 0.05 * head.texture[1]))
        _blend(image, tumour.core, core[sequence] * (1.0 + roughness * head.texture[0]))
        _blend(image, tumour.necrosis, _NECROSIS[sequence])
        _blend(image, tumour.enhancing, enhancing[sequence] * (1.0 + 0.05 * head.texture[1]))
        _blend(image, tumour.spots, _CALCIFICATION[sequence])
    if patient.look.mismatch:
        _blend(painted[3], 0.8 * tumour.rim, 1.55)
    return painted


def _blend(image: Array, share: Array, signal: float | Array) -> None:
    """Replace, in place, ``share`` of each voxel by tissue of this signal."""
    image += share * (signal - image)
