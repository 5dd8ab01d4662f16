"""The stub provider, seen by a client that others wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.brain import block
from tests.provider import Provider, provider

EDIT = ("train.py", "LR = 0.04", "LR = 0.02")
SHELL = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
READ = {"type": "object", "properties": {"filePath": {"type": "string"}}}
REPLACE = {"type": "object", "properties": {"filePath": {}, "oldString": {}, "newString": {}}}


def client(stub: Provider, seconds: float = 5) -> openai.OpenAI:
    return openai.OpenAI(base_url=stub.url, api_key="none", max_retries=0, timeout=seconds)


def chat(stub: Provider, words: str = "Make it better.", seconds: float = 5, **more: Any) -> Any:
    with client(stub, seconds) as asked:
        return asked.chat.completions.create(model="m", messages=[{"role": "user", "content": words}], **more)


def streamed(stub: Provider) -> tuple[str, str | None, int | None]:
    """The words, why they ended, and the tokens that came."""
    words, finish, tokens = "", None, None
    with client(stub) as asked:
        for chunk in asked.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Make it better."}],
            stream=True,
            stream_options={"include_usage": True},
        ):
            for choice in chunk.choices:
                words += choice.delta.content or ""
                finish = choice.finish_reason or finish
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return words, finish, tokens


def test_words_for_whom_has_no_tools() -> None:
    with provider(EDIT) as stub:
        whole = chat(stub)
        assert block(EDIT) in whole.choices[0].message.content
        assert whole.usage.prompt_tokens == 1000
        assert streamed(stub) == (whole.choices[0].message.content, "stop", 50)
        assert [each.number for each in stub.requests] == [1, 2]
        assert stub.requests[1].body["stream"]
        assert stub.requests[0].headers["authorization"] == "Bearer none"


def test_an_edit_may_follow_from_the_request() -> None:
    with provider(lambda request: ("train.py", "A", f"B{request.number}")) as stub:
        assert "B1" in chat(stub).choices[0].message.content
        assert "B2" in chat(stub).choices[0].message.content


def test_the_agents_own_tool_for_edits_is_found_by_its_arguments(tmp_path: Path) -> None:
    named = {"sh": SHELL, "read": READ, "anything": REPLACE}
    tools = [{"type": "function", "function": {"name": name, "parameters": each}} for name, each in named.items()]
    messages: list[Any] = [{"role": "system", "content": "Working directory: /w"}, {"role": "user", "content": "Go."}]
    called = []
    with provider(EDIT) as stub, client(stub) as asked:
        while True:
            said = asked.chat.completions.create(model="m", messages=messages, tools=tools).choices[0].message
            if not said.tool_calls:
                break
            called.append((said.tool_calls[0].function.name, said.tool_calls[0].function.arguments))
            messages += [said, {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "done"}]
    assert called == [
        ("read", '{"filePath": "/w/train.py"}'),
        ("anything", '{"filePath": "/w/train.py", "oldString": "LR = 0.04", "newString": "LR = 0.02"}'),
    ]
    assert "idea: LR = 0.02" in (said.content or "")


def test_a_shell_will_do_and_is_streamed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("LR = 0.04\n")
    tools = [{"type": "function", "name": "bash", "parameters": SHELL}]
    with provider(EDIT) as stub, client(stub) as asked:
        with asked.responses.stream(model="m", input="Go.", tools=tools) as events:
            call = events.get_final_response().output[-1]
        command = json.loads(call.arguments)["command"]
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        done = [call.to_dict(), {"type": "function_call_output", "call_id": call.call_id, "output": ""}]
        final = asked.responses.create(model="m", input=[{"role": "user", "content": "Go."}, *done], tools=tools)
    assert (tmp_path / "train.py").read_text() == "LR = 0.02\n"
    assert final.output_text.endswith("idea: LR = 0.02")


@pytest.mark.parametrize("stream", [False, True])
def test_messages(stream: bool) -> None:
    """No client for these is among what the tests need, so the wire itself is looked at."""
    body = {
        "model": "m",
        "stream": stream,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Go."}]}],
    }
    tool = {"name": "Edit", "input_schema": {"properties": {"file_path": {}, "old_string": {}, "new_string": {}}}}
    with provider(EDIT) as stub, client(stub) as asked:
        got = asked.post("/messages", body=body | {"tools": [tool]}, cast_to=str)
    assert '"stop_reason": "tool_use"' in got
    assert ("event: message_stop" in got) is stream
    assert "LR = 0.02" in got


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("401", openai.AuthenticationError),
        ("404", openai.NotFoundError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("hang", openai.APITimeoutError),
        ("stall", openai.APITimeoutError),
        ("truncate", openai.APIConnectionError),
    ],
)
def test_failures_are_what_a_client_takes_them_for(mode: str, error: type[Exception]) -> None:
    with provider(EDIT, mode) as stub:
        stub.retry_after = "7"
        with pytest.raises(error) as raised:
            chat(stub, seconds=0.3 if mode in ("hang", "stall") else 5)
        assert getattr(raised.value, "response", None) is None or raised.value.response.headers.get("retry-after") == (
            "7" if mode == "429" else None
        )
        stub.mode = "ok"
        assert chat(stub).choices[0].finish_reason == "stop"


def test_replies_that_are_no_edit() -> None:
    with provider(EDIT, "length") as stub:
        assert streamed(stub)[1] == chat(stub).choices[0].finish_reason == "length"
        stub.mode = "empty"
        assert streamed(stub)[0] == ""
        stub.mode = "badsearch"
        assert "NOT IN THE FILE" in streamed(stub)[0]
        stub.mode = "garbage"
        assert "SEARCH" not in streamed(stub)[0]


def test_as_a_process() -> None:
    argv = [sys.executable, "-m", "tests.provider", "--edit", *EDIT]
    where = Path(__file__).parents[1]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=where) as process:
        assert process.stdin and process.stdout
        with openai.OpenAI(base_url=process.stdout.readline().strip(), api_key="none") as asked:
            said = asked.chat.completions.create(model="m", messages=[{"role": "user", "content": "Go."}])
        process.stdin.close()
        assert process.wait(10) == 0
    assert block(EDIT) in (said.choices[0].message.content or "")
