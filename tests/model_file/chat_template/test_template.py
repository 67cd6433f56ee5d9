"""Chat templates in the style of the families that people run, each with the prompt that it has to make."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from canister.model_file.chat_template import CHATML, MAX_TEMPLATE_CHARACTERS, ChatTemplate, Message, TemplateError

NOW = datetime(2026, 11, 3, 7, 5)
TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why?"},
]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells the <weather>", "parameters": {"type": "object"}},
}

LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

PHI = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + "
    "'<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

DEEPSEEK = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(system_prompt='', is_first=true) %}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first %}"
    "{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first = false %}"
    "{%- else %}{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}{%- endif %}"
    "{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜>'}}{% endif %}"
)

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '\\n<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {{- tool_call.arguments | tojson }}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

VICUNA = """\
{% set loop_messages = messages %}
{%- if messages[0].role == 'system' -%}
{{ messages[0].content }} {% set loop_messages = messages[1:] -%}
{%- endif -%}
{%- for message in loop_messages -%}
{%- if message.role == 'user' -%}USER: {{ message.content }} {% else -%}ASSISTANT: {{ message.content }}{{ eos_token }}\
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}ASSISTANT:{%- endif -%}
"""

PARTS = (  # as of models that also see
    "{% for message in messages %}{{ '<|im_start|>' if loop.first else '' }}{{ message.role | capitalize }}:"
    "{% for line in message.content %}{% if line.type == 'text' %}{{ line.text }}{% elif line.type == 'image' %}"
    "{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

GRANITE = """\
{%- macro turn(role, text) -%}
<|start_of_role|>{{ role }}<|end_of_role|>{{ text }}<|end_of_text|>
{% endmacro -%}
{%- set said = [] -%}
{%- for message in messages -%}
    {%- if message.role == 'stop' %}{% break %}{% endif -%}
    {%- if not message.content %}{% continue %}{% endif -%}
    {%- set _ = said.append(turn(message.role, message.content)) -%}
{%- endfor -%}
Today is {{ strftime_now('%B %d, %Y') }}.
{{ said | join }}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"""

TRAINED = (
    "{% for message in messages %}{% if message.role == 'assistant' %}<a>{% generation %}{{ message.content }}"
    "{% endgeneration %}</a>{% else %}<{{ message.role[0] }}>{{ message.content | safe }}</{{ message.role[0] }}>"
    "{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Case:
    template: str
    prompt: str
    messages: list[Message] = field(default_factory=lambda: TALK)
    options: dict[str, object] = field(default_factory=dict)
    tools: list[object] | None = None
    add_generation_prompt: bool = True
    adds_bos: bool = False


CALLED: list[Message] = [
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": '{"at": "Bern"}'}}],
    },
    {"role": "tool", "content": "yes"},
    {"role": "tool", "content": "no"},
]

CASES = {
    "chatml": Case(
        CHATML,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!"
        "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "chatml, not the model's turn": Case(
        CHATML,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n",
        messages=TALK[1:3],
        add_generation_prompt=False,
    ),
    "llama 3": Case(
        LLAMA_3,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 03 Nov 2026\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "llama 3, another date, and a tokenizer that adds BOS": Case(
        LLAMA_3,
        "<|start_header_id|>system<|end_header_id|>\n\nToday Date: today\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        messages=[{"role": "user", "content": "  Hi "}],
        options={"date_string": "today"},
        adds_bos=True,
    ),
    "gemma, which refuses a system message": Case(
        GEMMA,
        "<s><start_of_turn>user\nBe brief.\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "mistral": Case(MISTRAL, "<s>[INST] Hi[/INST] Hello!</s>[INST] Be brief.\n\nWhy?[/INST]"),
    "phi": Case(
        PHI,
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n<|user|>\nWhy?<|end|>\n"
        "<|assistant|>\n",
    ),
    "deepseek drops what was thought": Case(
        DEEPSEEK,
        "<s>Be brief.<｜User｜>Hi<｜Assistant｜>Hello!<｜end▁of▁sentence｜><｜User｜>Why?<｜Assistant｜>",
        messages=[*TALK[:2], {"role": "assistant", "content": "<think>Greet.</think>Hello!"}, TALK[3]],
    ),
    "qwen": Case(
        QWEN,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!"
        "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        options={"enable_thinking": False},
    ),
    "qwen with tools": Case(
        QWEN,
        '<|im_start|>system\n# Tools\n<tools>\n{"type": "function", "function": {"name": "weather", "description": '
        '"Tells the <weather>", "parameters": {"type": "object"}}}\n</tools><|im_end|>\n'
        "<|im_start|>user\nRain?<|im_end|>\n"
        '<|im_start|>assistant\n\n<tool_call>\n{"name": "weather", "arguments": {"at": "Bern"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nyes\n</tool_response>\n<tool_response>\nno\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n",
        messages=CALLED,
        tools=[WEATHER],
    ),
    "zephyr, laid out in lines": Case(
        ZEPHYR,
        "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello!</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
    ),
    "vicuna": Case(VICUNA, "Be brief. USER: Hi ASSISTANT: Hello!</s>USER: Why? ASSISTANT:"),
    "content in parts": Case(
        PARTS,
        "<|im_start|>System:Be brief.<end_of_utterance>\nUser:Hi<end_of_utterance>\n"
        "Assistant:Hello!<end_of_utterance>\nUser:Why?<end_of_utterance>\nAssistant:",
    ),
    "granite: macros, lists that grow, loop controls, the date": Case(
        GRANITE,
        "Today is November 03, 2026.\n<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>",
        messages=[
            {"role": "system", "content": ""},
            {"role": "user", "content": "Hi"},
            {"role": "stop", "content": "x"},
            {"role": "user", "content": "never"},
        ],
    ),
    "marks for training, nothing escaped": Case(
        TRAINED,
        '<u>a < b & c</u><a>"quoted"</a>',
        messages=[{"role": "user", "content": "a < b & c"}, {"role": "assistant", "content": '"quoted"'}],
    ),
    "content given in parts to a template of texts": Case(
        CHATML,
        "<|im_start|>user\none\ntwo<|im_end|>\n<|im_start|>assistant\n",
        messages=[{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_prompt_of_a_family(name: str) -> None:
    case = CASES[name]
    template = ChatTemplate(case.template, bos_token="<s>", eos_token="</s>", adds_bos=case.adds_bos)
    prompt = template.render(
        case.messages,
        now=NOW,
        add_generation_prompt=case.add_generation_prompt,
        tools=case.tools,
        options=case.options,
    )
    assert prompt == case.prompt


def test_a_template_that_drops_the_system_message_gets_it_before_the_question() -> None:
    deaf = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    prompt = ChatTemplate(deaf).render(TALK, now=NOW)
    assert prompt == "[user] Be brief.\nHi\n[assistant] Hello!\n[user] Why?\n"
    alone = ChatTemplate(deaf).render(TALK[:1], now=NOW)
    assert alone == "[user] Be brief.\n"


def test_tojson_as_the_families_use_it() -> None:
    def made(expression: str) -> str:
        return ChatTemplate("{{ " + expression + " }}").render([{"role": "user", "content": "é<'"}], now=NOW)

    assert made("messages[0].content | tojson") == '"é<\'"'
    assert made("messages[0].content | tojson(ensure_ascii=true)") == '"\\u00e9<\'"'
    assert made("{'a': [1, 2]} | tojson(indent=2)") == json.dumps({"a": [1, 2]}, indent=2)
    assert made("{'a': [1, 2]} | tojson(separators=(',', ':'))") == '{"a":[1,2]}'
    assert made("messages | map(attribute='role') | tojson") == '["user"]'
    assert made("{'b': 1, 'a': nowhere} | tojson(sort_keys=true)") == '{"a": null, "b": 1}'


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}", "cannot be read: line 1: "),
        ("\n\n{{ 1 +", "cannot be read: line 3: "),
        ("{% include 'other' %}", "fails: "),
        ("{{ raise_exception('only\n one turn') }}", "refuses these messages: only one turn"),
        ("{{ nowhere.there() }}", "fails: 'nowhere' is undefined"),
        ("{{ 1 / 0 }}", "fails: division by zero"),
        ("{{ ''.__class__.__mro__ }}", "fails: "),
        ("{{ messages.__init__.__globals__ }}", "fails: "),
        ("{{ (raise_exception.__globals__)['json'] }}", "fails: "),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "fails: "),
        ("{{ messages.clear() }}", "fails: "),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recurses too deeply"),
        ("{{ [raise_exception] | tojson }}", "fails: tojson takes texts, numbers, lists and objects"),
    ],
)
def test_a_template_that_fails_is_told_in_a_sentence(template: str, told: str) -> None:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(template).render(TALK, now=NOW)
    assert told in str(caught.value)
    assert "Error" not in str(caught.value)


def test_formats_reach_no_further_than_the_sandbox() -> None:
    template = "[{{ '{0.__class__}'.format(messages) }}{{ '%s'.format.__self__ }}{{ messages.__class__ }}]"
    assert ChatTemplate(template).render(TALK, now=NOW) == "[]"


def test_a_template_of_any_length_is_not_read() -> None:
    with pytest.raises(TemplateError, match="1048577 characters; at most 1048576"):
        ChatTemplate("x" * (MAX_TEMPLATE_CHARACTERS + 1))


def test_half_a_character_does_not_get_into_a_prompt() -> None:
    assert ChatTemplate("{{ 'a\\ud800' }}").render(TALK, now=NOW) == "a?"


# -- a message that is gone on with

THINKING = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.reasoning_content %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
    {{- m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}
"""
ASKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "begun", "prompt"),
    [
        (CHATML, {"content": "Hel"}, f"{ASKED}Hel"),
        (CHATML, {"content": "Hel", "reasoning_content": "greet"}, f"{ASKED}Hel"),
        (THINKING, {"content": "Hel"}, f"{ASKED}<think>\n\n</think>\n\nHel"),
        (THINKING, {"content": "Hel", "reasoning_content": "greet"}, f"{ASKED}<think>\ngreet\n</think>\n\nHel"),
        (THINKING, {"content": None, "reasoning_content": "gre"}, f"{ASKED}<think>\ngre"),
    ],
)
def test_the_prompt_ends_within_a_message_that_is_gone_on_with(
    template: str, begun: dict[str, object], prompt: str
) -> None:
    said: list[Message] = [TALK[1], {"role": "assistant", **begun}]
    assert ChatTemplate(template).render(said, now=NOW, continue_final_message=True) == prompt


# -- what templates find


def shown(expression: str, *messages: Message, **chat: Any) -> str:
    """An expression, written as JSON."""
    template = ChatTemplate("{{ (" + expression + ") | tojson }}")
    return template.render(messages or TALK[1:2], now=NOW, **chat)


def test_messages_are_in_one_form() -> None:
    call = {"id": "c1", "function": {"arguments": {"x": [1]}, "name": "f"}, "index": 0}
    said: Message = {
        "refusal": None,
        "tool_calls": [call],
        "name": "",
        "reasoning_content": "hm",
        "content": None,
        "role": "assistant",
        "audio": {"id": "a"},
    }
    made = '{"type": "function", "function": {"name": "f", "arguments": {"x": [1]}}, "id": "c1"}'
    assert shown("messages[1]", TALK[1], said) == (
        '{"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [' + made + "], "
        '"audio": {"id": "a"}}'
    )


def test_tools_have_a_description_and_parameters_and_nothing_else() -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True, "parameters": None}}, "t"]
    bare = '{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}'
    assert shown("tools", tools=tools) == f'[{bare}, "t"]'


def test_what_there_is_not_is_undefined() -> None:
    asked = "[tools is defined, add_generation_prompt is defined, nowhere.there.deeper, nowhere.items() | list]"
    assert shown(asked, add_generation_prompt=False) == "[false, false, null, []]"
    assert shown("['a' + nowhere, none + 'b', none | default('c')]") == '["a", "b", "c"]'
    assert ChatTemplate("[{{ none }}{{ nowhere }}]").render(TALK, now=NOW) == "[]"


def test_thoughts_of_former_turns_stay_unless_told_otherwise() -> None:
    names = "[preserve_thinking, clear_thinking, truncate_history_thinking, drop_thinking]"
    assert shown(names) == "[true, false, false, false]"
    assert shown(names, options={"preserve_reasoning": False}) == "[false, true, true, true]"
    assert shown("[reasoning_effort, reasoning_strength]", options={"reasoning_effort": "low"}) == '["low", "low"]'


def test_only_a_template_that_knows_thoughts_is_told_to_think() -> None:
    tail = "{{ enable_thinking }}"
    assert ChatTemplate(CHATML + tail).render(TALK[:2], now=NOW).endswith("False")
    assert ChatTemplate(THINKING + tail).render(TALK[:2], now=NOW).endswith("True")
    on = ChatTemplate(CHATML + tail).render(TALK[:2], now=NOW, options={"enable_thinking": True})
    assert on.endswith("True")


def test_arguments_are_objects_where_the_template_looks_into_them() -> None:
    called: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
    }
    said = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ ARGS }}{% endfor %}{% endfor %}"

    def made(arguments: str) -> str:
        return ChatTemplate(said.replace("ARGS", arguments)).render([TALK[1], called], now=NOW)

    assert made("c.function.arguments") == 'Hi{"x": 1}'
    assert made("c.function.arguments | tojson") == 'Hi{"x": 1}'
    assert made("c.function.arguments.x") == "Hi1"
    assert made("c.function.arguments + '!'") == 'Hi{"x": 1}!'


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ messages[0].content }}", "a\nb"),
        ("{% for part in messages[0].content %}<{{ part.text }}>{% endfor %}", "<a><b>"),
        (
            "{% set c = messages[0].content %}{% if c is string %}{{ c }}{% else %}"
            "{% for part in c %}<{{ part.text }}>{% endfor %}{% endif %}",
            "<a><b>",
        ),
        ("{% set c = messages[0].content %}{{ c if c is string else c | tojson }}", "a\nb"),
    ],
)
def test_several_texts_reach_a_template_in_the_form_that_it_takes(template: str, prompt: str) -> None:
    said: Message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert ChatTemplate(template).render([said], now=NOW) == prompt
