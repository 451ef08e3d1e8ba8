"""A gRPC client: `grpc_client.py PLAIN_PORT|- TLS_PORT CERTIFICATE`; ends with 0 if all was well."""

import queue
import sys

import grpc

plain, encrypted, certificate = sys.argv[1:4]
PATIENCE = 20


def channel(host):
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    if plain != "-":
        options.append(("grpc.default_authority", host))
        return grpc.insecure_channel(f"127.0.0.1:{plain}", options)
    options.append(("grpc.ssl_target_name_override", host))
    with open(certificate, "rb") as file:
        trusted = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(f"127.0.0.1:{encrypted}", trusted, options)


shop = channel("shop.test")


def method(name, kind="unary_unary"):
    return getattr(shop, kind)(f"/test.Test/{name}")


def fails(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"{code} was expected")


unary = method("Unary")
said = (("x-say", "aloud"), ("x-say-bin", b"\x01\xfe"))
answer, call = unary.with_call(b"abc", timeout=PATIENCE, metadata=said[:1])
assert answer == b"cba"
assert ("x-say", "aloud") in call.initial_metadata(), call.initial_metadata()
assert dict(call.trailing_metadata())["x-last"] == "word", call.trailing_metadata()
assert dict(call.trailing_metadata())["x-raw-bin"] == b"\x00\xff"
_, call = unary.with_call(b"", timeout=PATIENCE, metadata=said[1:])
assert ("x-say-bin", b"\x01\xfe") in call.initial_metadata(), call.initial_metadata()
large = bytes(range(256)) * 8_000
assert unary(large, timeout=PATIENCE) == large[::-1]

numbers = [int(number) for number in method("Many", "unary_stream")(b"1000", timeout=PATIENCE)]
assert numbers == list(range(1000))
summands = (str(number).encode() for number in range(1000))
assert method("Total", "stream_unary")(summands, timeout=PATIENCE) == b"499500"

# Each message is sent only when the one before has come back.
to_send = queue.Queue()
echoes = method("Echo", "stream_stream")(iter(to_send.get, None), timeout=PATIENCE)
for number in range(50):
    to_send.put(b"%d" % number)
    assert next(echoes) == b"%d" % number
to_send.put(None)
assert list(echoes) == []
assert echoes.code() == grpc.StatusCode.OK

several = [unary.future(b"%d!" % number, timeout=PATIENCE) for number in range(100)]
assert [call.result() for call in several] == [(b"%d!" % number)[::-1] for number in range(100)]

error = fails(lambda: method("Fail")(b"", timeout=PATIENCE), grpc.StatusCode.FAILED_PRECONDITION)
assert error.details() == "not now: \u00e9 100%", error
assert ("x-why", "as asked") in error.trailing_metadata(), error.trailing_metadata()
late = method("FailLate", "unary_stream")(b"", timeout=PATIENCE)
assert next(late) == b"one"
assert fails(lambda: next(late), grpc.StatusCode.DATA_LOSS).details() == "after one"
fails(lambda: method("Unknown")(b"", timeout=PATIENCE), grpc.StatusCode.UNIMPLEMENTED)

# The deadline reaches the server, and a call that is given up ends there, too.
remaining = float(method("TimeLeft")(b"", timeout=3600))
assert 3000 < remaining < 4000, remaining
never = method("Never", "unary_stream")
fails(lambda: list(never(b"", timeout=0.2)), grpc.StatusCode.DEADLINE_EXCEEDED)
name = b"cancelled" + plain.encode()
call = never(name, timeout=PATIENCE)
assert next(call) == b"here"
call.cancel()
assert method("WasLeft")(name, timeout=PATIENCE) == b"yes"

# What the ingress says by itself is a status that a gRPC client understands.
empty = channel("empty.test").unary_unary("/test.Test/Unary")
fails(lambda: empty(b"", timeout=PATIENCE), grpc.StatusCode.UNAVAILABLE)
other = channel("other.test").unary_unary("/test.Test/Unary")
code = grpc.StatusCode.UNIMPLEMENTED if plain != "-" else grpc.StatusCode.UNAVAILABLE
fails(lambda: other(b"", timeout=PATIENCE), code)
