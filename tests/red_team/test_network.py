"""Candidate code has no network, and no socket of this machine."""

from __future__ import annotations

import socket

import pytest

pytestmark = pytest.mark.timeout(60)


def test_tcp_on_loopback_is_refused(inside, outside):
    """A server on 127.0.0.1 is not reached by TCP, and hears nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        import threading

        accepted = []

        def serve():
            connection, _ = server.accept()
            accepted.append(1)
            connection.sendall(b"hello")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert outside("tcp", port=port) == "hello"
        thread.join()
        assert inside("tcp", port=port).header["blocked"]
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert accepted == [1]


def test_udp_on_loopback_is_refused(inside, outside):
    """A receiver on 127.0.0.1 gets no datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(2)
        port = receiver.getsockname()[1]
        assert outside("udp", port=port)
        assert receiver.recv(10) == b"x"
        assert inside("udp", port=port).header["blocked"]
        receiver.settimeout(0.1)
        with pytest.raises(TimeoutError):
            receiver.recv(10)


def test_an_abstract_socket_is_refused(blocked):
    """A listening socket without a path is not reached."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0lockgate-red-team")
        server.listen()
        blocked("abstract_socket", abstract="lockgate-red-team")


def test_a_socket_with_a_path_is_refused(blocked, key):
    """The supervisor's kind of socket is not reached."""
    path = str(key.parent / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        blocked("path_socket", path_socket=path)


@pytest.mark.parametrize("attack", ["vsock", "raw_packet"])
def test_other_families_are_refused(attack, blocked):
    """A socket to the hypervisor, or a raw one, cannot even be opened."""
    assert "PermissionError" in blocked(attack)
