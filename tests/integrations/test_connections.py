"""Connections of the tests' own client that stay open between requests."""

import socket
import threading
from http.client import IncompleteRead, RemoteDisconnected

import pytest

from tests.support.connections import Connections

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve(listener: socket.socket, *answers: bytes) -> threading.Thread:
    """Takes a connection for each answer. Closes it when the next request arrives, or at once if the answer is cut."""

    def run() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)
                if answer == ANSWER:
                    connection.recv(65_536)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_request_is_sent_again_if_its_idle_connection_was_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = serve(listener, ANSWER, ANSWER)
        connections = Connections(f"http://127.0.0.1:{listener.getsockname()[1]}")
        for _ in range(2):
            response, content = connections.exchange("GET", "/", None, {}, timeout_s=10)
            assert (response.status, content) == (200, b"ok")
        del connections
        thread.join()


@pytest.mark.parametrize(("cut", "error"), [(b"", RemoteDisconnected), (ANSWER[:-1], IncompleteRead)])
def test_a_request_is_not_sent_again_if_it_may_have_had_an_effect(cut: bytes, error: type[Exception]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = serve(listener, cut)
        connections = Connections(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(error):
            connections.exchange("GET", "/", None, {}, timeout_s=10)
        thread.join()
