"""A WebSocket server: says back what it hears. Prints its port, and serves until it is ended."""

from websockets.sync.server import serve


def handle(connection):
    for message in connection:
        if message == "headers":
            connection.send(str(connection.request.headers))
        elif message == "in pieces":
            connection.send(["in ", "pieces"])
        elif message == "leave":
            connection.close(4001, "as you wish")
            return
        else:
            connection.send(message)


with serve(handle, "127.0.0.1", 0, subprotocols=["chat", "news"], max_size=None) as server:
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
