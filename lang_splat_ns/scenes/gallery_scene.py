"""What stands in the demo room: solids on a table, framed photographs on the wall, and the prompts for them.

Each hue belongs to one thing, except for the green that ball and cone share on purpose, and white, which is one
half of two pairs. The room itself is cream and wood: grey walls would answer prompts that name white.
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
# are the corners of the colour cube. No other word of a prompt is a colour of that survey ("mushroom" would be).
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (232, 14, 10),
    "white": (250, 249, 246),
    "yellow": (255, 242, 20),
    "black": (34, 34, 36),
    "green": (32, 172, 44),
    "blue": (14, 72, 222),
    "sky blue": (118, 190, 252),
    "teal": (6, 148, 136),
    "purple": (134, 36, 162),
    "pink": (255, 130, 190),
    "orange": (250, 124, 8),
}


@dataclass(frozen=True)
class Part:
    """A piece of one thing, in one colour.

    Attributes:
        name: what it is, in English; also its prompt where `prompted`.
        colour: a key of `COLOURS`, or `photo:<file>` for a picture that scikit-image brings along, or the name of
            one of the room's own surfaces.
        shapes: what it consists of.
        prompted: whether the ground truth has this part under its name. White and black parts are named without
            their colour, which other things have too, so an encoder of colours alone is not asked for them.
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


def _toadstool(x: float, y: float) -> Thing:
    stem = cut_cone(_on_table(x, y), 0.088, 0.066, 0.175)
    cap = dome(_on_table(x, y, 0.165), 0.138, 0.105)
    return Thing(
        "red and white toadstool",
        (
            Part("red toadstool cap", "red", (cap,), prompted=True),
            Part("toadstool stem", "white", (stem,), prompted=True),
        ),
    )


def _car(x: float, y: float, turn: float) -> Thing:
    def at(along: float, across: float, above: float) -> Pose:
        corner = _on_table(x, y, turn=turn).to_room(_vector(along, across, above))
        return Pose.at(*(float(value) for value in corner), turn=turn)

    body = (Block(at(0, 0, 0.086), (0.19, 0.08, 0.038)), Block(at(-0.025, 0, 0.154), (0.098, 0.068, 0.036)))
    wheels = []
    for along in (-0.115, 0.115):
        for across in (-0.084, 0.084):
            pose = at(along, across, 0.054)
            # A wheel is a cylinder that lies: its axis points to the car's side.
            lying = Pose.at(*(float(value) for value in pose.centre), turn=turn, tilt=90)
            wheels.append(cylinder(lying, 0.054, 0.04))
    return Thing(
        "yellow and black car",
        (
            Part("yellow car body", "yellow", body, prompted=True),
            Part("car wheels", "black", tuple(wheels), prompted=True),
        ),
    )


def _cupcake(x: float, y: float) -> Thing:
    cup = cut_cone(_on_table(x, y), 0.074, 0.104, 0.125)
    icing = (
        dome(_on_table(x, y, 0.125), 0.116, 0.055),
        dome(_on_table(x, y, 0.163), 0.078, 0.055),
    )
    return Thing(
        "pink and white cupcake",
        (
            Part("pink cupcake base", "pink", (cup,), prompted=True),
            Part("cupcake icing", "white", icing, prompted=True),
        ),
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
    top = Block(Pose.at(0, 0.04, TABLE_TOP - 0.02), (0.78, 0.46, 0.02))
    legs = tuple(
        Block(Pose.at(x, y, 0.5 * TABLE_TOP - 0.02), (0.03, 0.03, 0.5 * TABLE_TOP - 0.02))
        for x in (-0.72, 0.72)
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
        _plain("teal cylinder", "teal", cylinder(_on_table(-0.48, 0.26, 0.145), 0.096, 0.29)),
        _plain("green ball", "green", ball(_on_table(-0.663, 0.192, 0.1), 0.1)),
        _toadstool(-0.36, -0.14),
        _plain("purple ring", "purple", Ring(_on_table(-0.16, 0.24, 0.134, turn=-12, tilt=80), 0.099, 0.037)),
        _car(0.05, -0.09, 24),
        _plain("green cone", "green", cut_cone(_on_table(0.2, 0.3), 0.115, 0.004, 0.31)),
        _plain("blue cube", "blue", Block(_on_table(0.53, 0.27, 0.108, turn=28), (0.108, 0.108, 0.108))),
        _plain("sky blue ball", "sky blue", ball(_on_table(0.623, 0.0952, 0.09), 0.09)),
        _cupcake(0.42, -0.17),
        _plain("orange die", "orange", Block(_on_table(-0.14, -0.31, 0.032, turn=35), (0.032, 0.032, 0.032))),
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
    "maroon sofa",
    "navy suitcase",
    "lime green frog",
)

CHINESE = {
    "teal cylinder": "青色圆柱",
    "green ball": "绿色的球",
    "red and white toadstool": "红白相间的毒蘑菇",
    "red toadstool cap": "红色毒蘑菇盖",
    "toadstool stem": "毒蘑菇柄",
    "purple ring": "紫色圆环",
    "yellow and black car": "黄黑相间的小汽车",
    "yellow car body": "黄色车身",
    "car wheels": "车轮",
    "green cone": "绿色圆锥",
    "blue cube": "蓝色方块",
    "sky blue ball": "天蓝色的球",
    "pink and white cupcake": "粉白相间的纸杯蛋糕",
    "pink cupcake base": "粉色蛋糕底",
    "cupcake icing": "蛋糕糖霜",
    "orange die": "橙色骰子",
    "cat": "猫",
    "astronaut": "宇航员",
    "rocket": "火箭",
    "bicycle": "自行车",
    "dog": "狗",
    "umbrella": "雨伞",
    "guitar": "吉他",
    "magenta umbrella": "洋红色雨伞",
    "maroon sofa": "褐红色沙发",
    "navy suitcase": "藏青色手提箱",
    "lime green frog": "黄绿色青蛙",
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
