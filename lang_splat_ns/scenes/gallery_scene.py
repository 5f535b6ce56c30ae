"""What stands in the demo room: solids on a table, framed photographs on the wall, and the prompts for them.

Each colour belongs to one prompt, except for the green that ball and cone share on purpose, and white, which is
one half of two pairs. The room itself is grey, tan and pale, so that no wall or table top answers a prompt.
Lengths are metres. The room's frame has z up, x along the wall with the photographs, y towards it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from lang_splat_ns.scenes.solids import Block, Hollow, Pose, Ring, Shape, ball, cut_cone, cylinder, dome

TABLE_TOP = 0.75
WALL_Y = 0.62
# Middle of the room's box and half of its sizes.
ROOM_MIDDLE = (0.0, -0.79, 1.25)
ROOM_HALF = (1.9, 1.41, 1.25)
FRAME_DEPTH = 0.03
FRAME_WIDTH = 0.026

# sRGB, 0..255. The hues are those that the XKCD survey gives the names to, a little softer where the survey's
# are the corners of the colour cube. Neighbours stay more than 30 apart in CIELAB also when they are shaded.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 22, 18),
    "white": (250, 249, 246),
    "yellow": (252, 226, 22),
    "black": (24, 24, 26),
    "brown": (112, 62, 18),
    "green": (32, 172, 44),
    "blue": (14, 72, 222),
    "sky blue": (118, 190, 252),
    "teal": (6, 148, 136),
    "purple": (134, 36, 162),
    "pink": (255, 130, 190),
}


@dataclass(frozen=True)
class Part:
    """A piece of one thing, in one colour.

    Attributes:
        name: what it is, in English; also its prompt where `prompted`.
        colour: a key of `COLOURS`, or `photo:<file>` for a picture that scikit-image brings along, or the name of
            one of the room's own surfaces.
        shapes: what it consists of.
        prompted: whether the ground truth has this part under its name. White parts have none: two things have
            one, and their prompts would only measure that.
    """

    name: str
    colour: str
    shapes: tuple[Shape, ...]
    prompted: bool = False


@dataclass(frozen=True)
class Thing:
    """One object: a solid or a framed photograph.

    Attributes:
        name: what it is, in English; the prompt for the whole where `prompted`.
        parts: one, or two of different colours.
        solid: True for what stands on the table.
        prompted: whether the ground truth has the whole under its name.
    """

    name: str
    parts: tuple[Part, ...]
    solid: bool = True
    prompted: bool = True


def _plain(name: str, colour: str, shape: Shape) -> Thing:
    return Thing(name, (Part(name, colour, (shape,)),))


def _on_table(x: float, y: float, above: float = 0.0, *, turn: float = 0.0, tilt: float = 0.0) -> Pose:
    return Pose.at(x, y, TABLE_TOP + above, turn=turn, tilt=tilt)


def _mushroom(x: float, y: float) -> Thing:
    stem = cut_cone(_on_table(x, y), 0.062, 0.045, 0.155)
    cap = dome(_on_table(x, y, 0.145), 0.125, 0.115)
    return Thing(
        "red and white mushroom",
        (Part("red mushroom cap", "red", (cap,), prompted=True), Part("white mushroom stem", "white", (stem,))),
    )


def _car(x: float, y: float, turn: float) -> Thing:
    def at(along: float, across: float, above: float) -> Pose:
        corner = _on_table(x, y, turn=turn).to_room(_vector(along, across, above))
        return Pose.at(*(float(value) for value in corner), turn=turn)

    body = (Block(at(0, 0, 0.075), (0.165, 0.07, 0.035)), Block(at(-0.02, 0, 0.135), (0.085, 0.06, 0.032)))
    wheels = []
    for along in (-0.1, 0.1):
        for across in (-0.072, 0.072):
            pose = at(along, across, 0.047)
            # A wheel is a cylinder that lies: its axis points to the car's side.
            lying = Pose.at(*(float(value) for value in pose.centre), turn=turn, tilt=90)
            wheels.append(cylinder(lying, 0.047, 0.036))
    return Thing(
        "yellow and black car",
        (
            Part("yellow car body", "yellow", body, prompted=True),
            Part("black wheels", "black", tuple(wheels), prompted=True),
        ),
    )


def _cupcake(x: float, y: float) -> Thing:
    cup = cut_cone(_on_table(x, y), 0.058, 0.085, 0.1)
    icing = (
        dome(_on_table(x, y, 0.1), 0.098, 0.05),
        dome(_on_table(x, y, 0.135), 0.066, 0.05),
    )
    return Thing(
        "brown and white cupcake",
        (Part("brown cupcake base", "brown", (cup,), prompted=True), Part("white icing", "white", icing)),
    )


def _photo(name: str, file: str, x: float, z: float, width: float, height: float) -> Thing:
    pose = Pose.at(x, WALL_Y - FRAME_DEPTH, z)
    picture = Block(pose, (0.5 * width, 0.006, 0.5 * height))
    upright = (0.5 * FRAME_WIDTH, FRAME_DEPTH, 0.5 * height + FRAME_WIDTH)
    level = (0.5 * width, FRAME_DEPTH, 0.5 * FRAME_WIDTH)
    side, top = 0.5 * (width + FRAME_WIDTH), 0.5 * (height + FRAME_WIDTH)
    y = WALL_Y - FRAME_DEPTH
    frame = (
        Block(Pose.at(x - side, y, z), upright),
        Block(Pose.at(x + side, y, z), upright),
        Block(Pose.at(x, y, z - top), level),
        Block(Pose.at(x, y, z + top), level),
    )
    parts = (Part(f"frame of the {name}", "frame", frame), Part(name, f"photo:{file}", (picture,), prompted=True))
    return Thing(f"framed photograph: {name}", parts, solid=False, prompted=False)


def _table() -> Thing:
    top = Block(Pose.at(0, 0.04, TABLE_TOP - 0.02), (0.82, 0.46, 0.02))
    legs = tuple(
        Block(Pose.at(x, y, 0.5 * TABLE_TOP - 0.02), (0.03, 0.03, 0.5 * TABLE_TOP - 0.02))
        for x in (-0.76, 0.76)
        for y in (-0.36, 0.44)
    )
    return Thing("table", (Part("table", "table", (top, *legs)),), solid=False, prompted=False)


def _room() -> Thing:
    room = Hollow(Pose.at(*ROOM_MIDDLE), ROOM_HALF)
    return Thing("room", (Part("room", "room", (room,)),), solid=False, prompted=False)


@cache
def things() -> tuple[Thing, ...]:
    """All that is in the scene; the index is the instance id. The room is 0 and the table 1."""
    return (
        _room(),
        _table(),
        _plain("teal cylinder", "teal", cylinder(_on_table(-0.52, 0.2, 0.13), 0.085, 0.26)),
        _plain("green ball", "green", ball(_on_table(-0.545, 0.029, 0.088), 0.088)),
        _mushroom(-0.15, 0.2),
        _plain("purple ring", "purple", Ring(_on_table(-0.29, -0.12, 0.112, turn=-22, tilt=80), 0.082, 0.031)),
        _car(0.06, -0.1, 24),
        _plain("green cone", "green", cut_cone(_on_table(0.2, 0.25), 0.1, 0.004, 0.27)),
        _plain("blue cube", "blue", Block(_on_table(0.5, 0.2, 0.095, turn=28), (0.095, 0.095, 0.095))),
        _plain("sky blue ball", "sky blue", ball(_on_table(0.6075, 0.006, 0.078), 0.078)),
        _cupcake(0.4, -0.16),
        _plain("pink die", "pink", Block(_on_table(-0.14, -0.27, 0.021, turn=35), (0.021, 0.021, 0.021))),
        _photo("cat", "chelsea.png", -0.72, 1.3, 0.48, 0.32),
        _photo("astronaut", "astronaut.png", 0.0, 1.31, 0.36, 0.36),
        _photo("rocket", "rocket.jpg", 0.72, 1.3, 0.45, 0.3),
    )


# Things that are nowhere in the room, for the share of prompts that must come back empty. Half of them name a
# colour that is not there either, so that an encoder that knows nothing but colours is asked as well.
ABSENT = (
    "bicycle",
    "dog",
    "umbrella",
    "guitar",
    "magenta umbrella",
    "lime green frog",
    "olive backpack",
    "maroon sofa",
)

CHINESE = {
    "teal cylinder": "青色圆柱",
    "green ball": "绿色的球",
    "red and white mushroom": "红白相间的蘑菇",
    "red mushroom cap": "红色蘑菇盖",
    "purple ring": "紫色圆环",
    "yellow and black car": "黄黑相间的小汽车",
    "yellow car body": "黄色车身",
    "black wheels": "黑色车轮",
    "green cone": "绿色圆锥",
    "blue cube": "蓝色方块",
    "sky blue ball": "天蓝色的球",
    "brown and white cupcake": "棕白相间的纸杯蛋糕",
    "brown cupcake base": "棕色蛋糕底",
    "pink die": "粉色骰子",
    "cat": "猫",
    "astronaut": "宇航员",
    "rocket": "火箭",
    "bicycle": "自行车",
    "dog": "狗",
    "umbrella": "雨伞",
    "guitar": "吉他",
    "magenta umbrella": "洋红色雨伞",
    "lime green frog": "黄绿色青蛙",
    "olive backpack": "橄榄色背包",
    "maroon sofa": "褐红色沙发",
}


def prompts() -> dict[str, tuple[int, int | None]]:
    """Every prompt of the ground truth -> (instance id, part id or None for the whole).

    Part ids count from 1; a thing of one part has no other.
    """
    found: dict[str, tuple[int, int | None]] = {}
    for instance, thing in enumerate(things()):
        if thing.prompted:
            found[thing.name] = (instance, None)
        for part_id, part in enumerate(thing.parts, start=1):
            if part.prompted:
                found[part.name] = (instance, part_id)
    return found


def _vector(*values: float):
    import numpy as np

    return np.array(values, np.float32)
