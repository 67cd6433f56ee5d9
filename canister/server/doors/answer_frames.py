"""The response to a request that makes a whole answer for the herd: its body, and the calls that it took, as frames in
the order in which they came.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from canister.api import herd_requests
from canister.api.herd_frames import Body, Broken, Frame, encode_frame
from canister.dispatch.herd_answers import HerdAnswer


class AnswerFrames:
    """A `send` of ASGI, in place of the one that it is given."""

    def __init__(self, send: Send, answer: HerdAnswer) -> None:
        self._send = send
        self._answer = answer
        self._is_whole = False  # its length was known before it began, so all calls had ended

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=[*message["headers"]])
            self._is_whole = "content-length" in headers
            del headers["content-length"]
            headers[herd_requests.FRAMED_HEADER] = "1"
            await self._send({**message, "headers": headers.raw})
        elif message["type"] == "http.response.body":
            is_end = not message.get("more_body", False)
            data = b"".join(map(encode_frame, self._frames(message.get("body", b""), is_end=is_end)))
            await self._send({**message, "body": data})
        else:
            await self._send(message)

    def _frames(self, data: bytes, *, is_end: bool) -> list[Frame]:
        answer = self._answer
        frames: list[Frame] = [*answer.take()]
        if answer.broken:
            frames.append(Broken(answer.broken))
        if data or is_end:
            frames.append(Body(data, self._is_whole or answer.is_over, is_end))
        return frames
