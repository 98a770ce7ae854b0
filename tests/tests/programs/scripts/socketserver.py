import socketserver


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data, socket = self.request
        socket.sendto(data.upper(), self.client_address)


socketserver.ThreadingUDPServer(("", 8007), Handler).serve_forever()
