// SPDX-License-Identifier: Apache-2.0
/** The server that the command line talks to. */
import { createWriteStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ReadableStream } from 'node:stream/web'
import type { Command } from 'commander'
import { WebSocket } from 'ws'
import type { Answer, InputArgs, RouteName } from '../../api/schemas/contract.ts'
import type { ProblemBody } from '../../api/schemas/problem.ts'
import {
  DEFAULT_HOST,
  DEFAULT_PORT,
  type HttpRequest,
  PREFIX,
  requestFor,
  STREAM_PATH,
} from '../../api/schemas/request.ts'
import type { ServerMessage, StreamItems, StreamName, Subscribe } from '../../api/schemas/subscriptions.ts'
import { TOKEN_VARIABLE } from '../../api/security.ts'
import { counted } from '../../trace/words.ts'
import { UsageError } from '../exit.ts'
import { print, say } from '../terminal.ts'

const URL_VARIABLE = 'SMMU_COSIM_URL'
const DEFAULT_URL = process.env[URL_VARIABLE] ?? `http://${DEFAULT_HOST}:${DEFAULT_PORT}/`

export interface ClientOptions {
  readonly url: string
  readonly json?: boolean
}

export function urlOptions(command: Command): Command {
  return command
    .option(
      '--url <url>',
      `the server; also ${URL_VARIABLE}. Its token: ${TOKEN_VARIABLE}, or #token=… in the URL`,
      DEFAULT_URL,
    )
    .option('--json', 'print what the API answers')
}

/** One server, as the options of the command line name it. */
export class Client {
  readonly json: boolean
  readonly #url: URL
  readonly #token: string | undefined

  constructor({ url, json }: ClientOptions) {
    const parsed = URL.canParse(url) ? new URL(url) : undefined
    if (parsed === undefined) throw new UsageError(`--url ${url}: not a URL such as ${DEFAULT_URL}`)
    this.#token = /^#token=(.+)$/.exec(parsed.hash)?.[1] ?? process.env[TOKEN_VARIABLE]
    parsed.hash = ''
    this.#url = parsed
    this.json = json === true
  }

  get #headers(): Record<string, string> {
    return this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` }
  }

  /** @throws Error when there is no server, or with the problem that it answers */
  async #fetch({ method, path, body }: HttpRequest): Promise<Response> {
    const response = await fetch(new URL(path, this.#url), {
      method,
      headers: { ...this.#headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { body }),
    }).catch(() => {
      throw new Error(`no server at ${this.#url.href}: start one with "smmu-cosim serve", or give --url`)
    })
    if (response.ok) return response
    const { detail, title } = (await response.json().catch(() => ({}))) as Partial<ProblemBody>
    throw new Error(detail ?? title ?? `status ${response.status}`)
  }

  async call<K extends RouteName>(route: K, ...[input]: InputArgs<K>): Promise<Answer<K>> {
    const response = await this.#fetch(requestFor(route, input))
    return (response.status === 204 ? undefined : await response.json()) as Answer<K>
  }

  /** Writes a recording to a file. @param path of its route */
  async download(file: string, path: string): Promise<void> {
    const { body } = await this.#fetch({ method: 'GET', path: `${PREFIX}${path}` })
    if (body !== null) await pipeline(Readable.fromWeb(body as ReadableStream), createWriteStream(file))
  }

  async metrics(): Promise<string> {
    return (await this.#fetch({ method: 'GET', path: '/metrics' })).text()
  }

  /** Hands every item of a stream to `each`, until the server or the user ends it. */
  stream<K extends StreamName>(
    stream: K,
    options: Pick<Subscribe, 'last' | 'filter'>,
    each: (item: StreamItems[K]) => void,
  ): Promise<void> {
    const url = new URL(STREAM_PATH, this.#url)
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
    const socket = new WebSocket(url, { headers: this.#headers })
    const request: Subscribe = { type: 'subscribe', id: '1', stream, ...options }
    return new Promise((resolve, reject) => {
      socket.on('open', () => socket.send(JSON.stringify(request)))
      socket.on('message', data => {
        const message = JSON.parse(String(data)) as ServerMessage
        if (message.type === 'error') reject(new Error(message.error))
        if (message.type !== 'items') return
        if (message.dropped) say(`${counted(message.dropped, 'item was', 'items were')} missed`)
        for (const item of message.items) each(item as StreamItems[K])
      })
      socket.on('error', () => reject(new Error(`no stream at ${url.href}`)))
      socket.on('close', () => resolve())
      process.once('SIGINT', () => socket.close())
    })
  }

  /** As JSON, or as `text` puts it. */
  print<T>(value: T, text: (value: T) => string): void {
    print(this.json ? JSON.stringify(value, null, 2) : text(value))
  }
}
