// SPDX-License-Identifier: Apache-2.0
/** Serves one page that carries its recordings, on the loopback address: there is nothing else to ask for. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { refusal } from './security.ts'

const HOST = '127.0.0.1'

export interface PageServer {
  readonly url: string
  close(): Promise<void>
}

/** @param port 0: any that is free @throws Error when it is in use */
export async function servePage(html: string, port: number): Promise<PageServer> {
  const page = Buffer.from(html)
  const server = createServer((request, response) => {
    const why = refusal(request.headers, { host: HOST })
    const status = why !== undefined ? 403 : request.method !== 'GET' ? 405 : request.url === '/' ? 200 : 404
    response.writeHead(status, {
      'cache-control': 'no-store',
      'content-type': status === 200 ? 'text/html; charset=utf-8' : 'text/plain; charset=utf-8',
      'referrer-policy': 'no-referrer',
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
    })
    response.end(status === 200 ? page : (why ?? ''))
  })
  server.listen(port, HOST)
  try {
    await once(server, 'listening')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Error(code === 'EADDRINUSE' ? `${HOST}:${port} is in use: choose another --port (0: any)` : message)
  }
  return {
    url: `http://${HOST}:${(server.address() as AddressInfo).port}/`,
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
