"""The chest of a phantom patient: body wall, ribs, spine, mediastinum, heart and lungs, one axial slice at a time.

Every organ is a signed distance (millimetres, negative inside) in the frame of a standard patient 300 mm wide: origin
at the centre of the body at the height of the carina, x to the patient's left, y to posterior, z to the head. The
organs are simple shapes placed by eye from textbook anatomy; nothing here stems from a real scan.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

STANDARD_WIDTH_MM = 300.0
AIR_HU, FAT_HU, MUSCLE_HU, CORTEX_HU = -1000.0, -100.0, 52.0, 750.0


@dataclass(frozen=True)
class Anatomy:
    """What differs from patient to patient; lengths in millimetres of the standard patient."""

    scale: float  # this patient's size over the standard patient's
    depth: float  # antero-posterior half axis of the body
    wall: float  # thickness of the lateral chest wall
    fat: float  # subcutaneous fat at the side
    wobble: np.ndarray  # (4, 2) amplitude and phase of the 2nd to 5th harmonic of body and cavity outline
    rib_phase: float
    rib_slope: float  # mm in z for 1 mm in y: ribs fall from the spine to the sternum
    vertebra_phase: float
    heart_shift: tuple[float, float, float]  # z, y, x
    heart_size: float
    aorta_radius: float
    blood_hu: float  # about 42 without contrast medium, above 120 with it
    spongiosa_hu: float
    lung_hu: float
    lung_gradient: float  # HU for each mm towards the back: the dependent lung is denser


def draw_anatomy(rng: np.random.Generator, width_mm: float) -> Anatomy:
    """A new patient whose body is `width_mm` wide."""
    harmonics = np.stack([rng.normal(0, 0.009, 4), rng.uniform(0, 2 * np.pi, 4)], axis=1)
    has_contrast = rng.random() < 0.5
    return Anatomy(
        scale=width_mm / STANDARD_WIDTH_MM,
        depth=rng.uniform(106, 116),
        wall=rng.uniform(25, 31),
        fat=rng.uniform(7, 14),
        wobble=harmonics,
        rib_phase=rng.uniform(0, 22),
        rib_slope=rng.uniform(0.52, 0.68),
        vertebra_phase=rng.uniform(0, 25),
        heart_shift=tuple(rng.normal(0, [4, 2, 3]).tolist()),
        heart_size=rng.uniform(0.9, 1.08),
        aorta_radius=rng.uniform(11, 14),
        blood_hu=rng.uniform(120, 230) if has_contrast else rng.uniform(36, 48),
        spongiosa_hu=rng.uniform(110, 230),
        lung_hu=rng.uniform(-890, -830),
        lung_gradient=rng.uniform(0.15, 0.55),
    )


class Canvas:
    """One slice in HU on which organs are painted with soft edges, as partial volume leaves them."""

    def __init__(self, hu: np.ndarray, softness: float) -> None:
        self.hu = hu
        self.softness = softness

    def weight(self, distance: np.ndarray) -> np.ndarray:
        """How much of each pixel lies inside: 0 to 1 over one edge width."""
        return np.clip(0.5 - distance / self.softness, 0, 1)

    def paint(self, distance: np.ndarray, value_hu: float | np.ndarray) -> None:
        """Cover what lies inside the outline by `value_hu`."""
        weight = self.weight(distance)
        self.hu += weight * (value_hu - self.hu)


@dataclass(frozen=True)
class Frame:
    """The pixels of every slice in the standard patient, and what does not change with height; made once a volume."""

    x: np.ndarray  # (1, X) to the patient's left
    y: np.ndarray  # (Y, 1) to posterior
    edge: float  # pixel size: the width of a soft edge
    middle: slice  # columns that hold the heart, the great vessels and the spine
    cavity_radius: np.ndarray  # (Y, X) distance from the axis of the rib cage
    cavity_level: np.ndarray  # (Y, X) the same in shares of the way to its inner surface at the carina
    muscle_limit: np.ndarray  # (Y, X) signed distance to where fat begins below the skin
    muscle_mm: np.ndarray  # (Y, X) thickness of the muscle on the rib cage in this direction
    plane_mm: np.ndarray  # (Y, X) depth of the fat between two layers of muscle
    skin_hu: np.ndarray  # (Y, X) air, table, skin and fat


def frame_of(anatomy: Anatomy, x_mm: np.ndarray, y_mm: np.ndarray) -> Frame:
    """The frame of pixel centres at `x_mm` (X,) and `y_mm` (Y,) in millimetres of the real patient."""
    x = np.float32(x_mm / anatomy.scale)[None, :]
    y = np.float32(y_mm / anatomy.scale)[:, None]
    angle = np.arctan2(y, x)
    bend = 1 + sum(size * np.cos(order * angle + phase) for order, (size, phase) in enumerate(anatomy.wobble, start=2))
    radius = length(x, y) + 1
    half_width, edge = STANDARD_WIDTH_MM / 2, float(x[0, 1] - x[0, 0])
    body = (radius * (1 - bend / superellipse(x, y, half_width, anatomy.depth))).astype(np.float32)
    skin = Canvas(np.full(body.shape, AIR_HU, np.float32), edge)
    skin.paint(np.abs(ellipse(x, y + 250, 390, 250 + anatomy.depth + 9)) - 1.2, -350)
    skin.paint(body, 15)
    skin.paint(body + 2, FAT_HU)
    to_back, to_side = np.maximum(y / radius, 0), np.abs(x) / radius
    return Frame(
        x=x,
        y=y,
        edge=edge,
        middle=slice(*np.searchsorted(x[0], [-85.0, 85.0]).tolist()),
        cavity_radius=length(x, y + 8),
        cavity_level=(superellipse(x, y + 8, half_width - anatomy.wall, anatomy.depth - 24) / bend).astype(np.float32),
        muscle_limit=body + anatomy.fat * (0.45 + 0.55 * to_side),
        # Paraspinal muscle at the back, latissimus and serratus at the side.
        muscle_mm=11 + 15 * to_back**3 * np.exp(-((np.abs(x) - 32) ** 2) / 900) + 7 * to_side * (1 - 0.6 * to_side),
        plane_mm=11 + 1.5 * np.sin(6 * x / radius + np.float32(anatomy.rib_phase)),
        skin_hu=skin.hu,
    )


def thorax_slice(anatomy: Anatomy, frame: Frame, z_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """The chest at one height, still without lung vessels, nodules and noise.

    Args:
        anatomy: the patient.
        frame: the pixels.
        z_mm: height in millimetres of the real patient, 0 at the carina, to the head.

    Returns:
        (Y, X) float32 HU, and (Y, X) float32 share of lung in each pixel.
    """
    # Python floats keep the arrays in float32; a NumPy scalar would double their width.
    z = float(z_mm / anatomy.scale)
    canvas = Canvas(frame.skin_hu.copy(), frame.edge)
    cavity = cavity_distance(frame, z)
    lungs = without_mediastinum(cavity, anatomy, frame, z)
    paint_muscles(canvas, frame, z, cavity)
    paint_ribs(canvas, anatomy, frame.x, frame.y, z, cavity)
    canvas.paint(cavity, FAT_HU + 10)
    canvas.paint(lungs, anatomy.lung_hu + anatomy.lung_gradient * frame.y)
    # The rest lies in the middle: painting only there halves the work.
    middle = Canvas(canvas.hu[:, frame.middle], frame.edge)
    x, y = frame.x[:, frame.middle], frame.y
    paint_spine(middle, anatomy, x, y, z)
    paint_heart(middle, anatomy, x, y, z)
    paint_great_vessels(middle, anatomy, x, y, z)
    paint_airways(middle, x, y, z)
    return canvas.hu, canvas.weight(lungs)


def lung_distance(anatomy: Anatomy, frame: Frame, z_mm: float) -> np.ndarray:
    """(Y, X) signed distance to the lungs: the chest cavity without the mediastinum."""
    z = float(z_mm / anatomy.scale)
    return without_mediastinum(cavity_distance(frame, z), anatomy, frame, z)


def without_mediastinum(cavity: np.ndarray, anatomy: Anatomy, frame: Frame, z: float) -> np.ndarray:
    """What remains of the cavity for the lungs; the mediastinum lies in the middle columns."""
    lungs = cavity.copy()
    middle = lungs[:, frame.middle]
    np.maximum(middle, -mediastinum_distance(anatomy, frame.x[:, frame.middle], frame.y, z), out=middle)
    return lungs


def cavity_distance(frame: Frame, z: float) -> np.ndarray:
    """Signed distance, along the ray from its axis, to the inner surface of the rib cage, which widens downwards."""
    widening = 1 - 0.0010 * z
    return frame.cavity_radius * (1 - widening / frame.cavity_level)


def mediastinum_distance(anatomy: Anatomy, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """Signed distance to all that lies between the lungs, rounded where its parts meet."""
    parts = [
        ellipse(x - 3, y, 19 + 0.08 * abs(z), 92),
        ellipse(x, y - 66, 25, 25),
        ellipse(x - 25, y - 44, anatomy.aorta_radius + 2, anatomy.aorta_radius + 2),
        heart_distance(anatomy, x, y, z) - 4,
        ball(x, y + 18, z - 8, 36, 27, 44),
        ball(x + 28, y + 16, z - 4, 15, 15, 50),
        ball(x + 34, y - 2, z + 16, 13, 14, 20),
        ball(x - 36, y - 4, z + 12, 12, 13, 18),
    ]
    rounding = 4.0
    return -rounding * np.log(sum(np.exp(-np.maximum(part, -60) / rounding) for part in parts))


def heart_distance(anatomy: Anatomy, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    """Signed distance to the heart: below the carina, to the left and to the front."""
    dz, dy, dx = anatomy.heart_shift
    u, v = rotate(x - 19 - dx, y + 30 - dy, 0.45)
    size = anatomy.heart_size
    return ball(u, v, z + 68 - dz, 58 * size, 41 * size, 54 * size)


def paint_muscles(canvas: Canvas, frame: Frame, z: float, cavity: np.ndarray) -> None:
    """The muscles around the rib cage with the fat between their layers, and the shoulder blades among them."""
    muscle = np.maximum(cavity - frame.muscle_mm, frame.muscle_limit)
    canvas.paint(muscle, MUSCLE_HU)
    canvas.paint(np.maximum(np.abs(cavity - frame.plane_mm) - 0.8, muscle), FAT_HU + 30)
    blade = np.maximum(np.abs(cavity - 15.5) - 1.6, np.maximum(70 - np.abs(frame.x), 18 - frame.y))
    canvas.paint(np.maximum(blade, -z - 40), 420)


def paint_ribs(canvas: Canvas, anatomy: Anatomy, x, y, z, cavity) -> None:
    """Tilted rings around the cavity, bone with a marrow that turns to cartilage near the sternum; the sternum."""
    spacing_mm = 22.0
    height = z - anatomy.rib_slope * (y - 0.08 * np.abs(x)) - anatomy.rib_phase
    height = (height + spacing_mm / 2) % spacing_mm - spacing_mm / 2
    rib = np.maximum(ellipse(cavity - 5.5, height, 3.7, 5.2), 17 - np.abs(x))
    is_bone = np.clip((y + 74) / 6, 0, 1)
    canvas.paint(rib, 110 + is_bone * (CORTEX_HU - 110))
    canvas.paint(rib + 1.7, 95 + is_bone * (anatomy.spongiosa_hu + 60 - 95))
    sternum = ellipse(x - 1, y + anatomy.depth - 13, 17, 5.5)
    canvas.paint(sternum, 420)
    canvas.paint(sternum + 1.5, anatomy.spongiosa_hu - 30)


def paint_spine(canvas: Canvas, anatomy: Anatomy, x, y, z) -> None:
    """Vertebral bodies alternating with discs, the canal, arches, transverse and spinous processes."""
    height = (z + anatomy.vertebra_phase) % 25.0
    in_disc = min(max(3 - abs(height - 2.5), 0.0), 1.0)
    waist = 1.2 * sin(pi * height / 25.0)
    body = ellipse(x, y - 64, 18 - waist, 15 - waist)
    canvas.paint(body, 420 - 320 * in_disc)
    canvas.paint(body + 1.6, anatomy.spongiosa_hu + in_disc * (85 - anatomy.spongiosa_hu))
    arch = ellipse(x, y - 84, 13, 12)
    transverse = segment(np.abs(x), y, (10, 80), (30, 88)) - 4
    spinous = segment(x, y, (0, 94), (0, anatomy.depth - 12)) - 2.5
    bones = np.minimum(np.minimum(arch, spinous), transverse + 8 * in_disc)
    canvas.paint(bones, 520 - 330 * in_disc)
    canvas.paint(bones + 1.8, anatomy.spongiosa_hu + 30)
    canvas.paint(ellipse(x, y - 83.5, 9, 8.5), FAT_HU + 60)
    canvas.paint(ellipse(x, y - 83.5, 5.5, 5), 38)


def paint_heart(canvas: Canvas, anatomy: Anatomy, x, y, z) -> None:
    """Pericardial fat, muscle, and four chambers that show when the blood carries contrast medium."""
    heart = heart_distance(anatomy, x, y, z)
    canvas.paint(heart, 48)
    for centre_x, centre_y, half_x, half_y in (
        (40, -16, 24, 15),
        (8, -44, 26, 14),
        (-14, -18, 18, 16),
        (14, 4, 22, 12),
    ):
        chamber = np.maximum(ball(x - centre_x, y - centre_y, z + 66, half_x, half_y, 44), heart + 5)
        canvas.paint(chamber, anatomy.blood_hu)


def paint_great_vessels(canvas: Canvas, anatomy: Anatomy, x, y, z) -> None:
    """Aorta with its arch, superior vena cava, pulmonary trunk and arteries, oesophagus, some lymph nodes."""
    blood, radius = anatomy.blood_hu, anatomy.aorta_radius
    canvas.paint(ellipse(x - 25, y - 44, radius, radius), blood)
    if z > -42:
        canvas.paint(ellipse(x + 11, y + 24, radius + 2.5, radius + 2), blood)
        canvas.paint(ellipse(x + 31, y + 16, 8, 9), 1.1 * blood)
    trunk = ball(x - 17, y + 34, z + 26, 14, 15, 26)
    right_artery = length(segment(x, y, (14, -20), (-34, 2)), z + 18) - 8
    left_artery = length(segment(x, y, (18, -24), (36, 10)), z + 9) - 9
    canvas.paint(np.minimum(np.minimum(trunk, right_artery), left_artery), blood)
    arch = length(segment(x, y, (-9, -22), (25, 40)), min(z - 22, 0.0)) - radius
    canvas.paint(arch, blood)
    canvas.paint(ellipse(x - 8, y - 36, 7, 5), 34)
    for node_x, node_y, node_z in ((-16, 8, 2), (14, 8, 6), (2, 18, -18), (-24, 4, 12)):
        canvas.paint(ball(x - node_x, y - node_y, z - node_z, 5, 4, 7), 40)


def paint_airways(canvas: Canvas, x, y, z) -> None:
    """The trachea above the carina and the two main bronchi below it, until they enter the hila."""
    if z > 2:
        airways = ellipse(x + 2, y - 14, 9, 9.5)
    elif z > -26:
        slant = (2 - z) / 28
        airways = np.minimum(
            ellipse(x + 8 + 26 * slant, y - 12 + 2 * slant, 8.5 - 1.5 * slant, 7.5 - slant),
            ellipse(x - 6 - 28 * slant, y - 15 + 3 * slant, 9 - 2 * slant, 7 - slant),
        )
    else:
        return
    canvas.paint(airways - 1.6, 20)
    canvas.paint(airways, AIR_HU + 12)


def superellipse(x, y, half_x: float, half_y: float) -> np.ndarray:
    """1 on the outline of an ellipse that is a little boxy, as a chest is; 0 at its centre, but never quite."""
    power = 2.3
    level = (np.abs(x / half_x) ** power + np.abs(y / half_y) ** power) ** np.float32(1 / power)
    return np.maximum(level, 1e-3)


def ellipse(x, y, half_x, half_y) -> np.ndarray:
    """Signed distance to an ellipse, to first order: the level function over the length of its gradient."""
    u, v = x / half_x, y / half_y
    level = length(u, v) + 1e-3
    return (level - 1) * level / (length(u / half_x, v / half_y) + 1e-6)


def ball(x, y, z: float, half_x: float, half_y: float, half_z: float) -> np.ndarray:
    """Signed distance to the section of an ellipsoid at height z; far outside above and below it."""
    section = 1 - (z / half_z) ** 2
    if section < 0.01:
        return np.full(np.broadcast_shapes(np.shape(x), np.shape(y)), 1e3, np.float32)
    return ellipse(x, y, half_x * section**0.5, half_y * section**0.5)


def segment(x, y, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Distance to a line segment in the plane."""
    run_x, run_y = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * run_x + (y - start[1]) * run_y) / (run_x**2 + run_y**2), 0, 1)
    return length(x - start[0] - along * run_x, y - start[1] - along * run_y)


def length(x, y) -> np.ndarray:
    """Length of a vector; five times as fast as np.hypot, which guards against overflow."""
    return np.sqrt(x * x + y * y)


def rotate(x, y, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a frame turned by `angle` radians."""
    return x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle)
