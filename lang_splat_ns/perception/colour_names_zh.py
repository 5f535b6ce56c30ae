"""Chinese colour names: each stands for a name of the XKCD survey, so that a prompt and its translation look the same.

Chinese is written without blanks, so names are found in running text, the longest first. Words for things that happen
to hold a colour's character (青蛙 is a frog, 银行 a bank) are read as such and name no colour.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lang_splat_ns.perception.colour_names import colour_table

NAMES: dict[str, str] = {
    "red": "红 赤 大红 正红 火红",
    "bright red": "鲜红 艳红",
    "scarlet": "猩红 朱红",
    "crimson": "绯红 殷红",
    "maroon": "褐红 栗色 栗红 枣红 绛红 绛紫",
    "burgundy": "酒红",
    "brick red": "砖红",
    "rust red": "铁锈红 锈红",
    "blood red": "血红",
    "cherry red": "樱桃红",
    "tomato red": "番茄红",
    "orange": "橙 橘 桔色",
    "orange red": "橙红 橘红",
    "orange yellow": "橙黄 橘黄 桔黄",
    "brown": "棕 褐 咖啡色 咖色 茶色",
    "chocolate brown": "巧克力色",
    "reddish brown": "红棕 红褐 棕红",
    "yellowish brown": "黄棕 黄褐 棕黄",
    "beige": "米色 米白 米黄 杏色 奶油色 裸色 肤色 肉色",
    "tan": "驼色",
    "khaki": "卡其",
    "yellow": "黄",
    "lemon yellow": "柠檬黄",
    "golden yellow": "金黄",
    "gold": "金 黄金",
    "light yellow": "鹅黄 嫩黄",
    "bright yellow": "明黄",
    "mustard yellow": "芥末黄 芥黄",
    "dark yellow": "土黄",
    "ochre": "赭色 赭石 赭黄",
    "olive": "橄榄 橄榄色",
    "olive green": "橄榄绿",
    "army green": "军绿",
    "lime green": "黄绿 青柠色 青柠绿 柠檬绿 嫩绿",
    "apple green": "苹果绿",
    "green": "绿",
    "grass green": "草绿",
    "pea green": "豆绿",
    "moss green": "苔绿",
    "emerald green": "翠绿 祖母绿",
    "jade green": "玉绿",
    "mint green": "薄荷绿",
    "forest green": "森林绿",
    "dark green": "墨绿",
    "teal": "青 蓝绿 青绿 凫蓝",
    "turquoise": "绿松石 松石绿 松绿 湖蓝 湖绿 天青",
    "aqua": "水绿 碧绿",
    "cyan": "青蓝",
    "sky blue": "天蓝",
    "light blue": "水蓝",
    "azure": "蔚蓝 碧蓝",
    "blue": "蓝",
    "royal blue": "宝蓝 宝石蓝 皇家蓝",
    "cobalt blue": "钴蓝",
    "sea blue": "海蓝",
    "peacock blue": "孔雀蓝",
    "navy": "藏青 藏蓝 海军蓝",
    "midnight blue": "午夜蓝",
    "indigo": "靛 靛蓝 靛青",
    "purple": "紫",
    "violet": "紫罗兰",
    "bluish purple": "蓝紫",
    "reddish purple": "紫红",
    "grape purple": "葡萄紫",
    "eggplant purple": "茄紫",
    "lavender": "薰衣草 薰衣草紫 淡紫 浅紫",
    "lilac": "丁香紫 雪青",
    "mauve": "藕荷色 藕色",
    "magenta": "洋红 品红 玫红 玫瑰红",
    "pink": "粉 粉红",
    "hot pink": "亮粉 亮粉红 艳粉 荧光粉",
    "rose pink": "桃红 桃粉",
    "coral pink": "珊瑚红 珊瑚粉 珊瑚色",
    "white": "白 雪白 纯白 洁白",
    "off white": "乳白 奶白 灰白 象牙白 象牙色",
    "grey": "灰",
    "silver": "银 银白 银灰",
    "black": "黑 乌黑 漆黑 墨黑 纯黑",
}
"""A survey's name -> the Chinese names that stand for it. Names may be followed by 色; those that are things without it
have it here."""

_SHADES = {"浅": ("light", "pale"), "淡": ("pale", "light"), "深": ("dark", "deep"), "暗": ("dark",), "亮": ("bright",)}
"""Characters in front of a name, with what the survey says for them, the likelier first."""

_THINGS = (
    *("青蛙 青菜 青椒 青草 青年 青春 青铜 青瓷 青苔 青豆 青少年 白菜 白板 白天 白酒 白糖 白领 明白 空白 蛋白".split()),
    *("红包 红酒 红绿灯 红薯 红枣 红茶 红豆 红外 口红 网红 西红柿 黑板 黑夜 黑客 黑洞 灰尘 烟灰 石灰 灰烬".split()),
    *("蓝牙 蓝莓 蓝图 绿豆 绿茶 绿植 绿化 绿萝 绿洲 紫菜 紫薯 紫外 黄瓜 黄油 黄豆 黄牛 黄昏 黄鱼 蛋黄".split()),
    *("橙子 橙汁 橘子 橘汁 棕榈 橄榄油 橄榄球 金属 金鱼 金融 金字塔 金枪鱼 现金 资金 奖金 基金 五金 合金".split()),
    *("银行 银杏 银河 银耳 粉末 粉笔 粉丝 粉刷 粉底 粉饼 面粉 奶粉 花粉 米粉 赤道 赤脚".split()),
)

_SIMPLIFIED = str.maketrans(
    "紅藍綠黃銀淺鮮豔艷欖蘭軍凫鳧寶鈷醬亞膚漿純潔雞烏熒駝薰", "红蓝绿黄银浅鲜艳艳榄兰军凫凫宝钴酱亚肤浆纯洁鸡乌荧驼薰"
)


def chinese_names_in(text: str) -> list[str]:
    """Survey's names of the Chinese colour names in a text: "天蓝色的球" has "sky blue", and not "blue"."""
    found = (match.group() for match in _pattern().finditer(text.translate(_SIMPLIFIED)))
    return [chinese_table()[word] for word in found if word in chinese_table()]


def near_chinese_names(text: str) -> list[str]:
    """Chinese colour names of two or more characters that share one with the text, the closest first; at most four."""
    characters = set(text.translate(_SIMPLIFIED)) - {"色"}
    names = [name for words in NAMES.values() for name in words.split() if len(name) > 1 and characters & set(name)]
    return sorted(names, key=lambda name: -len(characters & set(name)) / len(name))[:4]


@lru_cache(maxsize=1)
def chinese_table() -> dict[str, str]:
    """Chinese name -> the survey's name, with the shades (浅蓝, 深绿) that the survey has too."""
    plain = {word: name for name, words in NAMES.items() for word in words.split()}
    shaded = {
        character + word: f"{shade} {name}"
        for word, name in plain.items()
        for character, shades in _SHADES.items()
        # Later ones of a comprehension win, and the likelier shade shall.
        for shade in reversed(shades)
        if f"{shade} {name}" in colour_table()
    }
    return shaded | plain


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    # Alternatives are tried in their order, so the longest of all that begin at a place wins.
    return re.compile("|".join(sorted({*chinese_table(), *_THINGS}, key=len, reverse=True)))
