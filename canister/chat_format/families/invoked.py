"""Calls as <invoke name="…"><parameter name="…">: MiniMax M2, DeepSeek's DSML from V3.2 on, and forms near to them."""

from __future__ import annotations

from canister.chat_format.family import Family, Row, WantedCalls
from canister.chat_format.marks import Mark, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import Tags, read_section, write_section


def _section(name: str, tags: Tags, begin: str, end: str, *, special: tuple[str, ...] = ()) -> Family:
    """A family whose calls stand in one section."""

    def read(it: Reading, _opener: Mark) -> Steps[Outcome]:
        return (yield from read_section(it, tags, end))

    def write(wanted: WantedCalls) -> str:
        return write_section(wanted, tags, begin + tags.line, end)

    return Family(
        name=name,
        openers=(mark(begin),),
        read_calls=read,
        write_calls=write,
        triggers=(begin,),
        special=special or (begin, end),
    )


def _dsml(name: str, section: str, space: str = "") -> Family:
    d = "｜DSML｜" + space
    tags = Tags(
        f'<{d}invoke name="',
        '">',
        f'<{d}parameter name="',
        ">",
        f"</{d}parameter>",
        f"</{d}invoke>",
        typed=('" string="', "true", "false", '">'),
        self_ends='"/>',
    )
    return _section(name, tags, f"<{d}{section}>", f"</{d}{section}>", special=("｜DSML｜",))


MINIMAX_M2 = _section(
    "minimax-m2",
    Tags('<invoke name="', '">', '<parameter name="', '">', "</parameter>", "</invoke>"),
    "<minimax:tool_call>",
    "</minimax:tool_call>",
)
DEEPSEEK_V32 = _dsml("deepseek-v3.2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek-v4", "tool_calls")
DEEPSEEK_V41 = _dsml("deepseek-v4.1", "calls", " ")
ATEM = _section(
    "atem",
    Tags('<atem:invoke name="', '">', '<atem:parameter name="', '">', "</atem:parameter>", "</atem:invoke>"),
    "<atem:function_calls>",
    "</atem:function_calls>",
)

_MINICPM_TAGS = Tags(
    '<function name="', '">', '<param name="', '">', "</param>", "</function>", line="", raw=("<![CDATA[", "]]>")
)


def _read_minicpm(it: Reading, _opener: Mark) -> Steps[Outcome]:
    return (yield from _MINICPM_TAGS.read(it))


def _write_minicpm(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(_MINICPM_TAGS.write(wanted, tool) for tool in wanted.tools)
    return lark.many(call, lark.text("\n")) if wanted.many else call


MINICPM = Family(
    name="minicpm",
    openers=(mark(_MINICPM_TAGS.begin),),
    read_calls=_read_minicpm,
    write_calls=_write_minicpm,
    triggers=(_MINICPM_TAGS.begin,),
)

ROWS = (
    Row(MINIMAX_M2, has=("<minimax:tool_call>",)),
    Row(DEEPSEEK_V41, has=("｜DSML｜ ",)),
    Row(DEEPSEEK_V41, has=("｜DSML｜", " calls>", "' invoke")),
    Row(DEEPSEEK_V32, has=("｜DSML｜", "function_calls")),
    Row(DEEPSEEK_V4, has=("｜DSML｜",)),
    Row(ATEM, has=("<atem:function_calls>",)),
    Row(MINICPM, has=('<function name="', '<param name="')),
)
