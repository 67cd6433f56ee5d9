"""Each family's calls, written by hand as its model's public template and documentation have them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chat_format.speech import template


@dataclass(frozen=True)
class Case:
    """one: a call of get_weather for Zürich. two: the same, and one of get_time. order: get the order of `ORDERED`.

    two: "" where the family makes one call at a time. thought: an output's thought "Hm." as it stands before a call.
    before: what stands before text, after: what stands behind it.
    """

    family: str
    template: str
    one: str
    two: str
    order: str
    thought: str = ""


ORDERED = {"item": 'a <b> & "c"', "n": 3, "gift": True, "tags": ["x", "y"], "to": {"street": "S 1", "zip": "02139"}}
ITEM = 'a <b> & "c"'
JSON_ITEM = r'"a <b> & \"c\""'
WEATHER_JSON, TIME_JSON = '{"city": "Zürich"}', "{}"
ORDER_JSON = (
    '{"item": ' + JSON_ITEM + ', "n": 3, "gift": true, "tags": ["x", "y"], "to": {"street": "S 1", "zip": "02139"}}'
)
TAGS_JSON, TO_JSON = '["x", "y"]', '{"street": "S 1", "zip": "02139"}'
THINK = "<think>\nHm.\n</think>\n\n"


def _named(name: str, arguments: str, key: str = "arguments", name_key: str = "name") -> str:
    return '{"' + name_key + '": "' + name + '", "' + key + '": ' + arguments + "}"


def _json_case(
    family: str,
    marks: tuple[str, ...],
    begin: str,
    end: str,
    between: str = "",
    key: str = "arguments",
    thought: str = "",
) -> Case:
    """Every call between marks of its own."""
    one, two, order = (
        begin + _named(*told, key) + end
        for told in (("get_weather", WEATHER_JSON), ("get_time", TIME_JSON), ("order", ORDER_JSON))
    )
    return Case(family, template(*marks), one, one + between + two if between is not None else "", order, thought)


def _list_case(family: str, marks: tuple[str, ...], begin: str, end: str, thought: str = "") -> Case:
    """A JSON list of calls."""
    weather, time, order = (
        _named(*told) for told in (("get_weather", WEATHER_JSON), ("get_time", TIME_JSON), ("order", ORDER_JSON))
    )
    return Case(
        family,
        template(*marks),
        f"{begin}[{weather}]{end}",
        f"{begin}[{weather}, {time}]{end}",
        f"{begin}[{order}]{end}",
        thought,
    )


def _tagged_case(
    family: str,
    marks: tuple[str, ...],
    call: str,
    argument: str,
    section: str = "{}",
    between: str = "\n",
    thought: str = "",
) -> Case:
    """call: with {name}, {arguments}; argument: with {key}, {value}."""

    def written(name: str, **values: str) -> str:
        arguments = "".join(argument.replace("{key}", key).replace("{value}", value) for key, value in values.items())
        return call.replace("{name}", name).replace("{arguments}", arguments)

    weather, time = written("get_weather", city="Zürich"), written("get_time")
    order = written("order", item=ITEM, n="3", gift="true", tags=TAGS_JSON, to=TO_JSON)
    return Case(
        family,
        template(*marks),
        section.replace("{}", weather),
        section.replace("{}", weather + between + time),
        section.replace("{}", order),
        thought,
    )


def _dsml(family: str, section: str, space: str = "") -> Case:
    d = "｜DSML｜" + space

    def text(key: str, value: str) -> str:
        return f'<{d}parameter name="{key}" string="true">{value}</{d}parameter>\n'

    def other(key: str, value: str) -> str:
        return text(key, value).replace('"true"', '"false"')

    def call(name: str, arguments: str) -> str:
        return f'<{d}invoke name="{name}">\n{arguments}</{d}invoke>\n'

    def whole(calls: str) -> str:
        return f"<{d}{section}>\n{calls}</{d}{section}>"

    weather, time = call("get_weather", text("city", "Zürich")), call("get_time", "")
    order = (
        text("item", ITEM) + other("n", "3") + other("gift", "true") + other("tags", TAGS_JSON) + other("to", TO_JSON)
    )
    marks = template(f"<{d}{section}>", f"<{d}invoke", "<think>", "</think>")
    return Case(
        family,
        marks,
        whole(weather),
        whole(weather + "\n" * 0 + time),
        whole(call("order", order)),
        "<think>Hm.</think>",
    )


def _kimi_k3() -> Case:
    def argument(key: str, kind: str, value: str) -> str:
        return f'<|open|>argument key="{key}" type="{kind}"<|sep|>{value}<|close|>argument<|sep|>'

    def call(name: str, arguments: str, index: int = 1) -> str:
        return f'<|open|>call tool="{name}" index="{index}"<|sep|>{arguments}<|close|>call<|sep|>'

    def whole(calls: str) -> str:
        return f"<|open|>tools<|sep|>{calls}<|close|>tools<|sep|>"

    weather = call("get_weather", argument("city", "string", "Zürich"))
    order = "".join(
        (
            argument("item", "string", ITEM),
            argument("n", "number", "3"),
            argument("gift", "boolean", "true"),
            argument("tags", "array", TAGS_JSON),
            argument("to", "object", TO_JSON),
        )
    )
    return Case(
        "kimi-k3",
        template("<|open|>", "<|close|>", "<|sep|>"),
        whole(weather),
        whole(weather + call("get_time", "", 2)),
        whole(call("order", order)),
        "<|open|>think<|sep|>Hm.<|close|>think<|sep|>",
    )


def _gemma(family: str, begin: str, end: str, quote: str, thought: str = "", *marks: str) -> Case:
    def call(name: str, arguments: str) -> str:
        return f"{begin}call:{name}{{{arguments}}}{end}"

    def text(value: str) -> str:
        return quote + value + quote

    weather = call("get_weather", "city:" + text("Zürich"))
    to = "{street:" + text("S 1") + ",zip:" + text("02139") + "}"
    order = f"gift:true,item:{text(ITEM)},n:3,tags:[{text('x')},{text('y')}],to:{to}"
    return Case(family, template(begin, *marks), weather, weather + call("get_time", ""), call("order", order), thought)


def _python(family: str, marks: tuple[str, ...], begin: str, end: str, between: str, thought: str = "") -> Case:
    weather, time = 'get_weather(city="Zürich")', "get_time()"
    order = f'order(item={JSON_ITEM}, n=3, gift=true, tags=["x", "y"], to={TO_JSON})'
    return Case(
        family,
        template(*marks),
        begin + weather + end,
        begin + weather + between + time + end,
        begin + order + end,
        thought,
    )


def _with_arguments(
    family: str, marks: tuple[str, ...], call: str, section: str = "{}", between: str = "", thought: str = ""
) -> Case:
    """call: with {name}, {arguments} and {index}."""

    def written(name: str, arguments: str, index: int = 0) -> str:
        return call.replace("{name}", name).replace("{arguments}", arguments).replace("{index}", str(index))

    weather, time = written("get_weather", WEATHER_JSON), written("get_time", TIME_JSON, 1)
    return Case(
        family,
        template(*marks),
        section.replace("{}", weather),
        section.replace("{}", weather + between + time),
        section.replace("{}", written("order", ORDER_JSON)),
        thought,
    )


def _minimax_m3() -> Case:
    def element(name: str, inner: str) -> str:
        return f"]<]minimax[>[<{name}>{inner}]<]minimax[>[</{name}>"

    def call(name: str, inner: str = "") -> str:
        return f']<]minimax[>[<invoke name="{name}">{inner}]<]minimax[>[</invoke>\n'

    def whole(calls: str) -> str:
        return f"]<]minimax[>[<tool_call>\n{calls}]<]minimax[>[</tool_call>"

    weather = call("get_weather", element("city", "Zürich"))
    tags = element("tags", element("item", "x") + element("item", "y"))
    to = element("to", element("street", "S 1") + element("zip", "02139"))
    order = call("order", element("item", ITEM) + element("n", "3") + element("gift", "true") + tags + to)
    return Case(
        "minimax-m3",
        template("]<]minimax[>["),
        whole(weather),
        whole(weather + call("get_time")),
        whole(order),
        "<mm:think>Hm.</mm:think>",
    )


def _command() -> Case:
    def call(index: int, name: str, arguments: str) -> str:
        return f'{{"tool_call_id": "{index}", "tool_name": "{name}", "parameters": {arguments}}}'

    def whole(calls: str) -> str:
        return f"<|START_ACTION|>[\n    {calls}\n]<|END_ACTION|>"

    weather, time = call(0, "get_weather", WEATHER_JSON), call(1, "get_time", TIME_JSON)
    return Case(
        "command-r7b",
        template("<|START_ACTION|>", "<|START_THINKING|>"),
        whole(weather),
        whole(weather + ",\n    " + time),
        whole(call(0, "order", ORDER_JSON)),
        "<|START_THINKING|>Hm.<|END_THINKING|>",
    )


def _command_r_plus() -> Case:
    calls = [
        '{"tool_name": "' + name + '", "parameters": ' + arguments + "}"
        for name, arguments in (("get_weather", WEATHER_JSON), ("get_time", TIME_JSON), ("order", ORDER_JSON))
    ]
    begin, end = "Action:\n```json\n[", "]\n```"
    return Case(
        "command-r-plus",
        template("Action:", "```json", "tool_name"),
        begin + calls[0] + end,
        begin + calls[0] + ", " + calls[1] + end,
        begin + calls[2] + end,
    )


_QWEN = ("<tool_call>\n{arguments_of_call}\n</tool_call>",)
_FUNCTION = "<function={name}>\n{arguments}</function>"
_BEGIN, _END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_KIMI = "<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
_DEEPSEEK = "<｜tool▁call▁begin｜>{}<｜tool▁call▁end｜>"
_DEEPSEEK_SECTION = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
_DEEPSEEK_MARKS = ("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "<think>", "</think>")
_HY = ":opensource"

CASES = (
    _json_case(
        "hermes", ("<tool_call>", "<think>", "</think>"), "<tool_call>\n", "\n</tool_call>", "\n", thought=THINK
    ),
    _json_case(
        "ernie", ("<tool_call>", "<response>", "</think>"), "<tool_call>\n", "\n</tool_call>", "\n", thought=THINK
    ),
    _json_case("generic", (), "<tool_call>\n", "\n</tool_call>", "\n"),
    _tagged_case(
        "qwen-coder",
        ("<tool_call>", "<function=", "<parameter=", "</think>"),
        f"<tool_call>\n{_FUNCTION}\n</tool_call>",
        "<parameter={key}>\n{value}\n</parameter>\n",
        thought=THINK,
    ),
    _tagged_case(
        "seed-oss",
        ("<seed:tool_call>", "<function=", "<parameter="),
        f"<seed:tool_call>\n{_FUNCTION}\n</seed:tool_call>",
        "<parameter={key}>{value}</parameter>\n",
        thought="<seed:think>Hm.</seed:think>",
    ),
    _tagged_case(
        "minimax-m2",
        ("<minimax:tool_call>", "<invoke", "</think>"),
        '<invoke name="{name}">\n{arguments}</invoke>',
        '<parameter name="{key}">{value}</parameter>\n',
        "<minimax:tool_call>\n{}\n</minimax:tool_call>",
        thought=THINK,
    ),
    _tagged_case(
        "atem",
        ("<atem:function_calls>",),
        '<atem:invoke name="{name}">\n{arguments}</atem:invoke>',
        '<atem:parameter name="{key}">{value}</atem:parameter>\n',
        "<atem:function_calls>\n{}\n</atem:function_calls>",
    ),
    _tagged_case(
        "minicpm",
        ('<function name="', '<param name="', "</think>"),
        '<function name="{name}">{arguments}</function>',
        '<param name="{key}">{value}</param>',
        thought=THINK,
    ),
    _tagged_case(
        "glm-4.5",
        ("<tool_call>", "<arg_key>", "</arg_key>\\n<arg_value>", "</think>"),
        "<tool_call>{name}\n{arguments}</tool_call>",
        "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
        thought=THINK,
    ),
    _tagged_case(
        "glm-4.7",
        ("<tool_call>", "<arg_key>", "<arg_value>", "</think>"),
        "<tool_call>{name}{arguments}</tool_call>",
        "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>",
        between="",
        thought="<think>Hm.</think>",
    ),
    _tagged_case(
        "hunyuan-3",
        ("<tool_sep{}>", _HY),
        f"<tool_call{_HY}>{{name}}<tool_sep{_HY}>\n{{arguments}}</tool_call{_HY}>\n",
        f"<arg_key{_HY}>{{key}}</arg_key{_HY}>\n<arg_value{_HY}>{{value}}</arg_value{_HY}>\n",
        f"<tool_calls{_HY}>\n{{}}</tool_calls{_HY}>",
        between="",
        thought=f"<think{_HY}>Hm.</think{_HY}>",
    ),
    _minimax_m3(),
    _dsml("deepseek-v3.2", "function_calls"),
    _dsml("deepseek-v4", "tool_calls"),
    _dsml("deepseek-v4.1", "calls", " "),
    _with_arguments(
        "deepseek-v3",
        (*_DEEPSEEK_MARKS, "```json"),
        _DEEPSEEK.replace("{}", "function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```"),
        _DEEPSEEK_SECTION,
        "\n",
        THINK,
    ),
    _with_arguments(
        "deepseek-v3.1",
        _DEEPSEEK_MARKS,
        _DEEPSEEK.replace("{}", "{name}<｜tool▁sep｜>{arguments}"),
        _DEEPSEEK_SECTION,
        thought=THINK,
    ),
    _with_arguments("kimi-k2", ("<|tool_call_begin|>", "</think>"), _KIMI, f"{_BEGIN}{{}}{_END}", thought=THINK),
    _kimi_k3(),
    _with_arguments("mistral", ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]{name}[ARGS]{arguments}"),
    _with_arguments(
        "magistral",
        ("[TOOL_CALLS]", "[ARGS]", "[THINK]"),
        "[TOOL_CALLS]{name}[ARGS]{arguments}",
        thought="[THINK]Hm.[/THINK]",
    ),
    _list_case("mistral-list", ("[TOOL_CALLS]",), "[TOOL_CALLS]", ""),
    _with_arguments("functionary-v3.1", ("<function=", "</function>"), "<function={name}>{arguments}</function>"),
    _with_arguments("functionary-v3.2", (">>>all",), "{name}\n{arguments}", between=">>>"),
    _json_case(
        "llama-3", ("<|start_header_id|>ipython", "parameters", "<|python_tag|>"), "", "", "; ", key="parameters"
    ),
    _python("llama-4", ("<|header_start|>",), "[", "]", ", "),
    _python("lfm2", ("<|tool_call_start|>", "</think>"), "<|tool_call_start|>[", "]<|tool_call_end|>", ", ", THINK),
    _python("olmo-3", ("<function_calls>",), "<function_calls>", "</function_calls>", "\n"),
    _list_case("xlam", ("list of JSON", "tool_calls", '"arguments"'), "", ""),
    _gemma("gemma-4", "<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>thought\nHm.\n<channel|>", "<channel|>"),
    _gemma("function-gemma", "<start_function_call>", "<end_function_call>", "<escape>"),
    _with_arguments(
        "harmony",
        ("<|channel|>", "<|message|>"),
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}",
        between="<|call|><|start|>assistant",
        thought="<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant",
    ),
    _command(),
    _command_r_plus(),
    _list_case("granite", ("<|tool_call|>",), "<|tool_call|>", "", "<think>Hm.</think>"),
    _list_case(
        "granite-3.2",
        ("<|tool_call|>", "Here is my thought process:"),
        "<|tool_call|>",
        "",
        "Here is my thought process: Hm.\n\nHere is my response: ",
    ),
    _list_case("phi-4", ("<|tool_call|>", "<|/tool_call|>"), "<|tool_call|>", "<|/tool_call|>"),
    _list_case("nemotron", ("<TOOLCALL>", "</think>"), "<TOOLCALL>", "</TOOLCALL>", THINK),
    _list_case("hunyuan", ("<tool_calls>", "<answer>", "</think>"), "<tool_calls>", "</tool_calls>", THINK),
    _list_case("apriel", ("<tool_calls>", "<thinking>"), "<tool_calls>", "</tool_calls>", "<thinking>Hm.</thinking>"),
    _list_case(
        "apriel-thinker",
        ("<tool_calls>", "[BEGIN FINAL RESPONSE]"),
        "<tool_calls>",
        "</tool_calls>",
        "Here are my reasoning steps:\nHm.[BEGIN FINAL RESPONSE]",
    ),
    _list_case("jamba", ("<tool_calls>",), "<tool_calls>", "</tool_calls>"),
    _json_case(
        "internlm",
        ("<|action_start|>", "<|plugin|>"),
        "<|action_start|><|plugin|>\n",
        "\n<|action_end|>",
        key="parameters",
    ),
    _json_case("gigachat", ("<|function_call|>",), "<|function_call|>", ""),
    _json_case("gigachat-3", ("function call", "role_sep"), "<|message_sep|>\n\nfunction call<|role_sep|>\n", ""),
    _list_case("firefunction", ("functools[",), " functools", ""),
    _with_arguments(
        "solar",
        ("<|tool_call:begin|>",),
        "<|tool_call:begin|>id{index}<|tool_call:name|>{name}<|tool_call:args|>{arguments}<|tool_call:end|>",
        thought="<|think|>Hm.<|end|>",
    ),
    Case(
        "minimax-m1",
        template("<tool_calls>\\n", "<beginning_of_sentence>"),
        f"<tool_calls>\n{_named('get_weather', WEATHER_JSON)}\n</tool_calls>",
        f"<tool_calls>\n{_named('get_weather', WEATHER_JSON)}\n{_named('get_time', TIME_JSON)}\n</tool_calls>",
        f"<tool_calls>\n{_named('order', ORDER_JSON)}\n</tool_calls>",
    ),
    Case(
        "apertus",
        template("<|tools_prefix|>"),
        f'<|tools_prefix|>[{{"get_weather": {WEATHER_JSON}}}]<|tools_suffix|>',
        f'<|tools_prefix|>[{{"get_weather": {WEATHER_JSON}}}, {{"get_time": {TIME_JSON}}}]<|tools_suffix|>',
        f'<|tools_prefix|>[{{"order": {ORDER_JSON}}}]<|tools_suffix|>',
        "<|inner_prefix|>Hm.<|inner_suffix|>",
    ),
)
