// SPDX-License-Identifier: Apache-2.0
/** HTTP requests for routes of the contract. Also used in the browser: of the schemas only types are imported. */
import type { Input, RouteName } from './contract.ts'

/** Where a server listens that was not told. */
export const DEFAULT_PORT = 8642
export const DEFAULT_HOST = '127.0.0.1'

/** Where the routes are. */
export const PREFIX = '/api/v1'

/** The WebSocket. */
export const STREAM_PATH = `${PREFIX}/stream`

/** Where a fleet's queue is looked at, in a server that knows of one. */
export const BOARD_PATH = '/queue'

export interface HttpRequest {
  readonly method: string
  /** With the query, from the root of the server. */
  readonly path: string
  /** JSON. */
  readonly body?: string
}

type Values = Readonly<Record<string, unknown>>

export function requestFor<K extends RouteName>(route: K, input?: Input<K>): HttpRequest {
  const { params = {}, query = {}, body } = (input ?? {}) as { params?: Values; query?: Values; body?: unknown }
  const [method = '', template = ''] = route.split(' ')
  const path = template.replace(/:(\w+)/g, (_, name: string) => encodeURIComponent(String(params[name])))
  const given = Object.entries(query).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, String(value)] as const],
  )
  const search = given.length === 0 ? '' : `?${new URLSearchParams(Object.fromEntries(given))}`
  return { method, path: `${PREFIX}${path}${search}`, ...(body !== undefined && { body: JSON.stringify(body) }) }
}
