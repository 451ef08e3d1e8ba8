"""A WebSocket client: `websocket_client.py SCHEME PORT CERTIFICATE`; ends with 0 if all was well.

One thread: the package's client with a thread of its own for reading hangs now and then over TLS,
with any server.
"""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

scheme, port, certificate = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PATIENCE = 20


def opened(path, **options):
    tls = ssl.create_default_context(cafile=certificate) if scheme == "wss" else None
    return connect(
        f"{scheme}://shop.test:{port}{path}",
        host="127.0.0.1",
        ssl=tls,
        proxy=None,
        max_size=None,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
        **options,
    )


async def hears(connection, message, expected=None):
    await connection.send(message)
    heard = await connection.recv()
    assert heard == (message if expected is None else expected), (message, heard)


async def every_kind_of_message(compression):
    async with opened("/chat", subprotocols=["news"], compression=compression) as connection:
        assert connection.subprotocol == "news", connection.subprotocol
        extensions = connection.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in extensions) == (compression == "deflate"), extensions
        await hears(connection, "hello")
        await hears(connection, b"\x00\xff binary")
        await hears(connection, "in pieces")
        await hears(connection, b"x" * 3_000_000)
        await hears(connection, ["a", "b", "c"], "abc")
        await (await connection.ping())
        await connection.send("headers")
        headers = (await connection.recv()).lower()
        forwarded = "https" if scheme == "wss" else "http"
        for field in ["x-forwarded-for: 127.0.0.1", f"x-forwarded-proto: {forwarded}"]:
            assert field in headers, (field, headers)
        await connection.send("leave")
        try:
            await connection.recv()
            raise AssertionError("it did not leave")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed


async def several_at_once():
    """Each on a connection of its own, and the client ends first."""
    several = [await opened("/chat", subprotocols=["chat"]) for _ in range(20)]
    for number, connection in enumerate(several):
        await connection.send(f"number {number}")
    for number, connection in enumerate(several):
        assert await connection.recv() == f"number {number}"
        await connection.close(1000, "enough")
        assert connection.close_code == 1000, connection.close_code


async def where_the_route_lets_none_through():
    try:
        await opened("/plain")
        raise AssertionError("it was let through")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused


async def main():
    await every_kind_of_message("deflate")
    await every_kind_of_message(None)
    await several_at_once()
    await where_the_route_lets_none_through()


asyncio.run(asyncio.wait_for(main(), PATIENCE))
