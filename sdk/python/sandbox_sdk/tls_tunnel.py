"""A plain socket for a tunnel that goes through TLS.

An ssl.SSLSocket must not be used by two threads at once (before Python 3.13), what it holds back is not seen by
select(), and it cannot end one direction alone. paramiko does the first, others the rest. So a thread here does the
TLS, between memory buffers, and the caller has one end of a socketpair."""
import selectors
import socket
import ssl
import threading

PIECE, ROOM = 64 * 1024, 256 * 1024
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def tls_socket(sock, context, host):
    """The caller's socket, after the handshake. sock, connected and with the caller's timeout, is the thread's from
    then on."""
    tls = _Tls(context, host)
    tls.handshake(sock)
    near, ours = socket.socketpair()
    sock.setblocking(False)
    ours.setblocking(False)
    threading.Thread(target=_run, args=(tls, sock, ours), name="sandbox-tunnel", daemon=True).start()
    return near


def _run(tls, far, near):
    with far, near, selectors.DefaultSelector() as selector:
        try:
            _relay(tls, far, near, selector)
        except OSError:
            pass  # one of them broke: the other one sees an end


class _Tls:
    def __init__(self, context, host):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)

    def feed(self, data):
        """Bytes from the wire; none: its end."""
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def handshake(self, sock):
        while True:
            try:
                self.ssl.do_handshake()
                return sock.sendall(self.outgoing.read())
            except ssl.SSLWantReadError:
                sock.sendall(self.outgoing.read())
                self.feed(sock.recv(PIECE))

    def decrypt(self, to):
        """All that is there. False: nothing will come any more."""
        try:
            while data := self.ssl.read(PIECE):
                to += data
        except ssl.SSLWantReadError:
            return True
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        return False

    def end(self):
        """Says that this was all. What the server sends is still read: nothing of it is in the buffers now."""
        try:
            self.ssl.unwrap()
        except ssl.SSLWantReadError:
            pass


def _relay(tls, far, near, selector):
    down, up, wire = bytearray(), bytearray(), bytearray()  # to the caller; from it, plain and encrypted
    down_open, up_open = tls.decrypt(down), True  # more may come
    down_told = up_told = False  # its end was passed on
    while not (down_told and up_told) or wire:
        wants = {far: 0, near: 0}
        if down_open and len(down) < ROOM:
            wants[far] |= READ
        if up_open and len(up) + len(wire) < ROOM:
            wants[near] |= READ
        if down:
            wants[near] |= WRITE
        if wire:
            wants[far] |= WRITE
        ready = _wait(selector, wants)
        if ready[far] & READ:
            tls.feed(far.recv(PIECE))
            down_open = tls.decrypt(down)
        if ready[near] & READ:
            piece = near.recv(PIECE)
            up += piece
            up_open = bool(piece)
        if up:
            tls.ssl.write(up)
            up.clear()
        if not up_open and not up_told:
            tls.end()
            up_told = True
        wire += tls.outgoing.read()
        if ready[far] & WRITE:
            del wire[:far.send(wire)]
        if ready[near] & WRITE:
            del down[:near.send(down)]
        if not down_open and not down and not down_told:
            near.shutdown(socket.SHUT_WR)
            down_told = True


def _wait(selector, wants):
    for sock, events in wants.items():
        if sock in selector.get_map():
            selector.unregister(sock)
        if events:
            selector.register(sock, events)
    ready = dict.fromkeys(wants, 0)
    if selector.get_map():
        ready.update((key.fileobj, events) for key, events in selector.select())
    return ready
