"""A gRPC server without schemas: bytes in, bytes out. Prints its port, and serves until it is
ended."""

import threading
from concurrent import futures

import grpc

left, someone_left = set(), threading.Condition()


def unary(request, context):
    for key, value in context.invocation_metadata():
        if key.startswith("x-say"):
            context.send_initial_metadata(((key, value),))
    context.set_trailing_metadata((("x-last", "word"), ("x-raw-bin", b"\x00\xff")))
    return request[::-1]


def time_left(request, context):
    return str(context.time_remaining()).encode()


def many(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, context):
    return str(sum(int(request) for request in requests)).encode()


def echo(requests, context):
    yield from requests


def fail(request, context):
    context.set_trailing_metadata((("x-why", "as asked"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00e9 100%")


def fail_late(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "after one")


def never(request, context):
    """Says that it is there, and then nothing until the call is given up."""
    gone = threading.Event()

    def note():
        with someone_left:
            left.add(request)
            someone_left.notify_all()
        gone.set()

    # Before anything is sent: a call that ends while it says something never gets further.
    if context.add_callback(note):
        yield b"here"
        gone.wait()
    else:
        note()


def was_left(request, context):
    """Answers once the call of `never` with this request has been given up."""
    with someone_left:
        someone_left.wait_for(lambda: request in left)
    return b"yes"


one, some = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
methods = {
    "Unary": one(unary),
    "TimeLeft": one(time_left),
    "Many": some(many),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": one(fail),
    "FailLate": some(fail_late),
    "Never": some(never),
    "WasLeft": one(was_left),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
