"""The protocols that the stub provider speaks: what a request says, and a reply as one document or in events."""

from __future__ import annotations

import json
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from tests.brain import Heard, Reply

Json = dict[str, Any]
Events = Iterator[tuple[str, Json | str]]  # the event's name, if the protocol has names, and its data


class Dialect(ABC):
    """A reply in one protocol. `usage`: tokens in and out."""

    def __init__(self, body: Json, reply: Reply, usage: tuple[int, int]) -> None:
        self.reply = reply
        self.id = uuid.uuid4().hex[:12]  # a client takes two messages of one id for one
        self.model = body.get("model", "stub-1")
        self.tokens_in, self.tokens_out = usage
        self.wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))

    @classmethod
    @abstractmethod
    def heard(cls, body: Json) -> Heard: ...

    @abstractmethod
    def whole(self) -> Json: ...

    @abstractmethod
    def events(self) -> Events: ...


class Chat(Dialect):
    """OpenAI's chat completions."""

    @classmethod
    def heard(cls, body: Json) -> Heard:
        turns = [(each["role"], _text(each.get("content"))) for each in body["messages"]]
        tools = [each["function"] for each in body.get("tools") or [] if each.get("type") == "function"]
        return _sorted(turns, {each["name"]: each.get("parameters") or {} for each in tools})

    def whole(self) -> Json:
        message: Json = {"role": "assistant", "content": self.reply.words or (None if self.reply.call else "")}
        if self.reply.call:
            message["tool_calls"] = [self._call()]
        choice = {"index": 0, "message": message, "finish_reason": self._finish(), "logprobs": None}
        return self._head("chat.completion") | {"choices": [choice], "usage": self._usage()}

    def events(self) -> Events:
        yield "", self._chunk({"role": "assistant", "content": ""})
        for word in re.findall(r"\S+\s*|\s+", self.reply.words):
            yield "", self._chunk({"content": word})
        if self.reply.call:
            call = self._call()
            arguments = call["function"].pop("arguments")
            yield "", self._chunk({"tool_calls": [{"index": 0, **call}]})
            for start in range(0, len(arguments), 40):
                piece = {"index": 0, "function": {"arguments": arguments[start : start + 40]}}
                yield "", self._chunk({"tool_calls": [piece]})
        yield "", self._chunk({}, self._finish())
        if self.wants_usage:
            yield "", self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage()}
        yield "", "[DONE]"

    def _head(self, what: str) -> Json:
        return {"id": f"chatcmpl-{self.id}", "object": what, "created": 0, "model": self.model}

    def _chunk(self, delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _call(self) -> Json:
        assert self.reply.call is not None
        name, arguments = self.reply.call
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {"id": f"call_{self.id}", "type": "function", "function": function}

    def _finish(self) -> str:
        return "length" if self.reply.cut else "tool_calls" if self.reply.call else "stop"

    def _usage(self) -> Json:
        return {
            "prompt_tokens": self.tokens_in,
            "completion_tokens": self.tokens_out,
            "total_tokens": self.tokens_in + self.tokens_out,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


class Responses(Dialect):
    """OpenAI's responses."""

    @classmethod
    def heard(cls, body: Json) -> Heard:
        given = body.get("input") or []
        turns = [("system", body.get("instructions") or "")]
        for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
            kind = item.get("type", "message")
            if kind == "message":
                turns.append((item["role"], _text(item.get("content"))))
            elif kind.endswith("_call_output"):
                turns.append(("tool", _text(item.get("output"))))
            elif kind.endswith("_call"):
                turns.append(("assistant", ""))
        tools = [each for each in body.get("tools") or [] if each.get("type") == "function"]
        return _sorted(turns, {each["name"]: each.get("parameters") or {} for each in tools})

    def whole(self) -> Json:
        usage = {
            "input_tokens": self.tokens_in,
            "output_tokens": self.tokens_out,
            "total_tokens": self.tokens_in + self.tokens_out,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        why = {"incomplete_details": {"reason": "max_output_tokens"}} if self.reply.cut else {}
        return (
            self._head("incomplete" if self.reply.cut else "completed")
            | {"output": self._items(), "usage": usage}
            | why
        )

    def events(self) -> Events:
        for number, (kind, fields) in enumerate(self._events()):
            yield kind, {"type": kind, "sequence_number": number, **fields}

    def _events(self) -> Iterator[tuple[str, Json]]:
        yield "response.created", {"response": self._head("in_progress") | {"output": [], "usage": None}}
        for index, item in enumerate(self._items()):
            where = {"item_id": item["id"], "output_index": index}
            empty = {"content": []} if item["type"] == "message" else {"arguments": ""}
            yield "response.output_item.added", {"output_index": index, "item": item | empty}
            if item["type"] == "message":
                part, place = item["content"][0], where | {"content_index": 0}
                yield "response.content_part.added", place | {"part": part | {"text": ""}}
                yield "response.output_text.delta", place | {"delta": part["text"], "logprobs": []}
                yield "response.output_text.done", place | {"text": part["text"], "logprobs": []}
                yield "response.content_part.done", place | {"part": part}
            else:
                said = {"arguments": item["arguments"]}
                yield "response.function_call_arguments.delta", where | {"delta": item["arguments"]}
                yield "response.function_call_arguments.done", where | said | {"name": item["name"]}
            yield "response.output_item.done", {"output_index": index, "item": item}
        yield f"response.{'incomplete' if self.reply.cut else 'completed'}", {"response": self.whole()}

    def _head(self, status: str) -> Json:
        fixed = {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": 0,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
        }
        empty: Json = {"tools": [], "error": None, "incomplete_details": None, "instructions": None, "metadata": {}}
        return fixed | empty | {"model": self.model, "status": status, "temperature": 1.0, "top_p": 1.0}

    def _items(self) -> list[Json]:
        items: list[Json] = []
        if self.reply.words or not self.reply.call:
            text = {"type": "output_text", "text": self.reply.words, "annotations": []}
            kept = {"role": "assistant", "status": "completed", "content": [text]}
            items.append({"id": f"msg_{self.id}", "type": "message", **kept})
        if self.reply.call:
            name, arguments = self.reply.call
            call = {
                "name": name,
                "call_id": f"call_{self.id}",
                "arguments": json.dumps(arguments),
                "status": "completed",
            }
            items.append({"id": f"fc_{self.id}", "type": "function_call", **call})
        return items


class Messages(Dialect):
    """Anthropic's messages."""

    stops: ClassVar = {(True, False): "max_tokens", (False, True): "tool_use", (False, False): "end_turn"}

    @classmethod
    def heard(cls, body: Json) -> Heard:
        turns = [("system", _text(body.get("system")))]
        for message in body["messages"]:
            content = message.get("content")
            parts = content if isinstance(content, list) else []
            results = [each for each in parts if each.get("type") == "tool_result"]
            turns += [("tool", _text(each.get("content"))) for each in results]
            if not results:
                turns.append((message["role"], _text(content)))
        return _sorted(turns, {each["name"]: each.get("input_schema") or {} for each in body.get("tools") or []})

    def whole(self) -> Json:
        return self._head() | {
            "content": self._blocks(),
            "stop_reason": self.stops[self.reply.cut, bool(self.reply.call)],
            "usage": self._usage(self.tokens_out),
        }

    def events(self) -> Events:
        for kind, fields in self._events():
            yield kind, {"type": kind, **fields}

    def _events(self) -> Iterator[tuple[str, Json]]:
        start = self._head() | {"content": [], "stop_reason": None, "usage": self._usage(1)}
        yield "message_start", {"message": start}
        for index, block in enumerate(self._blocks()):
            if block["type"] == "text":
                empty, delta = {"text": ""}, {"type": "text_delta", "text": block["text"]}
            else:
                empty, delta = {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield "content_block_start", {"index": index, "content_block": block | empty}
            yield "content_block_delta", {"index": index, "delta": delta}
            yield "content_block_stop", {"index": index}
        ended = {"stop_reason": self.stops[self.reply.cut, bool(self.reply.call)], "stop_sequence": None}
        yield "message_delta", {"delta": ended, "usage": {"output_tokens": self.tokens_out}}
        yield "message_stop", {}

    def _head(self) -> Json:
        who = {"id": f"msg_{self.id}", "type": "message", "role": "assistant", "model": self.model}
        return who | {"stop_sequence": None}

    def _blocks(self) -> list[Json]:
        text = [{"type": "text", "text": self.reply.words}] if self.reply.words or not self.reply.call else []
        if self.reply.call is None:
            return text
        name, arguments = self.reply.call
        return [*text, {"type": "tool_use", "id": f"toolu_{self.id}", "name": name, "input": arguments}]

    def _usage(self, tokens_out: int) -> Json:
        cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        return {"input_tokens": self.tokens_in, "output_tokens": tokens_out, **cache}


def _sorted(turns: list[tuple[str, str]], tools: dict[str, Json]) -> Heard:
    """What is said to the model once and for all goes first."""
    system = "\n".join(text for role, text in turns if role in ("system", "developer"))
    return Heard(system, tuple(each for each in turns if each[0] not in ("system", "developer")), tools)


def _text(content: Any) -> str:
    """The words of a content, which may be a string, parts, or nothing."""
    if isinstance(content, list):
        return "\n".join(map(_text, content))
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content") or content.get("output"))
    return content or ""
