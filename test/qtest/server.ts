// SPDX-License-Identifier: Apache-2.0
/** A server of the tests' own, for what the real one never sends. */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { FrameReader, FrameWriter } from '../../protocol/framing.ts'
import { Decoder, type MessageFromQemu } from '../../protocol/generated/messages.ts'

/** @param payload of the message, as it came */
export type Handler = (message: MessageFromQemu, out: FrameWriter, socket: Socket, payload: Buffer) => void

/** Listens at `path`. What `handler` encodes for a message is sent at once. */
export async function serve(path: string, handler: Handler): Promise<Server> {
  const server = createServer(socket => {
    const input = new FrameReader()
    const out = new FrameWriter()
    const decoder = new Decoder('server')
    socket.on('error', () => {})
    socket.on('data', (chunk: Buffer) => {
      input.push(chunk)
      while (input.next()) {
        const message = { ...decoder.decode(input.buffer, input.start, input.end) } as MessageFromQemu
        handler(message, out, socket, input.buffer.subarray(input.start, input.end))
        socket.write(Buffer.from(out.buffer.subarray(0, out.length)))
        out.reset()
      }
    })
  })
  server.listen(path)
  await once(server, 'listening')
  return server
}
