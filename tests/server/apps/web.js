#!/usr/bin/env node
// A web server with WebSockets, by Node's own means: echoes frames, and counts in memory.
const http = require("http");
const crypto = require("crypto");

let count = 0;
const server = http.createServer((request, response) => {
  if (request.url === "/events") {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    let number = 0;
    const timer = setInterval(() => response.write(`data: ${number++}\n\n`), 20);
    request.on("close", () => { clearInterval(timer); console.log("visitor left"); });
    return;
  }
  response.writeHead(200, { "Content-Type": "text/plain" });
  response.end(`node ${++count}`);
});

server.on("upgrade", (request, socket) => {
  if (request.url === "/refuse") {
    socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\nX-Why: no\r\n\r\nnot us");
    return;
  }
  const accept = crypto.createHash("sha1")
    .update(request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
  const offered = (request.headers["sec-websocket-protocol"] || "").split(",")[0];
  const protocol = offered ? `Sec-WebSocket-Protocol: ${offered}\r\n` : "";
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
    `Sec-WebSocket-Accept: ${accept}\r\n${protocol}\r\n`);
  if (request.url === "/greet") socket.write(Buffer.concat([Buffer.from([0x81, 5]), Buffer.from("hello")]));
  let data = Buffer.alloc(0);
  socket.on("data", (chunk) => {
    data = Buffer.concat([data, chunk]);
    for (;;) {
      if (data.length < 2) return;
      let length = data[1] & 127, start = 2;
      if (length === 126) { if (data.length < 4) return; length = data.readUInt16BE(2); start = 4; }
      if (length === 127) { if (data.length < 10) return; length = Number(data.readBigUInt64BE(2)); start = 10; }
      if (data.length < start + 4 + length) return;
      const mask = data.subarray(start, start + 4);
      const payload = Buffer.from(data.subarray(start + 4, start + 4 + length));
      for (let i = 0; i < length; i++) payload[i] ^= mask[i & 3];
      const opcode = data[0] & 15;
      data = data.subarray(start + 4 + length);
      const head = length < 126 ? Buffer.from([0x80 | opcode, length])
        : length < 65536 ? Buffer.from([0x80 | opcode, 126, length >> 8, length & 255])
        : Buffer.concat([Buffer.from([0x80 | opcode, 127, 0, 0, 0, 0]), Buffer.from([
            length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255])]);
      socket.write(Buffer.concat([head, payload]));
      if (opcode === 8) { socket.end(); return; }
    }
  });
  socket.on("error", () => {});
  socket.on("close", () => console.log("socket closed"));
});
server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log("node listens"));
