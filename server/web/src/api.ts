// SPDX-License-Identifier: Apache-2.0
import { signal } from '@preact/signals'

/** The server asked for a token, and has none from us that is right. */
export const locked = signal(false)

const KEY = 'smmu-cosim-token'

/** The token may come in the fragment, which no server and no log sees. */
function takeToken(): string | null {
  const given = /^#token=([\w-]+)$/.exec(location.hash)?.[1]
  if (given !== undefined) {
    sessionStorage.setItem(KEY, given)
    history.replaceState(null, '', `${location.pathname}${location.search}`)
  }
  return sessionStorage.getItem(KEY)
}

let token = takeToken()

export const currentToken = (): string | null => token

export function setToken(text: string): void {
  token = text
  sessionStorage.setItem(KEY, text)
  locked.value = false
}

/** A problem that the server reported, or that it could not be reached. */
export class ApiError extends Error {
  readonly status: number
  readonly errors: readonly FieldError[]

  constructor(status: number, message: string, errors: readonly FieldError[] = []) {
    super(message)
    this.status = status
    this.errors = errors
  }
}

/** Of a request's field, or of a place in a text that it holds. */
export interface FieldError {
  readonly message: string
  readonly line?: number
  readonly column?: number
}

async function request<T>(method: string, path: string, body?: unknown): Promise<T> {
  let response: Response
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(token !== null && { authorization: `Bearer ${token}` }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
  } catch {
    throw new ApiError(0, 'the server cannot be reached')
  }
  if (response.status === 401) locked.value = true
  if (response.status === 204) return undefined as T
  const answer = (await response.json().catch(() => ({}))) as {
    detail?: string
    title?: string
    errors?: readonly FieldError[]
  }
  if (!response.ok) {
    throw new ApiError(response.status, answer.detail ?? answer.title ?? `status ${response.status}`, answer.errors)
  }
  return answer as T
}

/** Saves what a path answers as a file. */
export async function download(path: string, name: string): Promise<void> {
  const response = await fetch(`/api/v1${path}`, {
    headers: token === null ? {} : { authorization: `Bearer ${token}` },
  })
  if (!response.ok) throw new ApiError(response.status, ((await response.json()) as { detail?: string }).detail ?? '')
  const link = document.createElement('a')
  link.href = URL.createObjectURL(await response.blob())
  link.download = name
  link.click()
  URL.revokeObjectURL(link.href)
}

type Query = Readonly<Record<string, string | number | boolean | undefined>>

export function get<T>(path: string, query: Query = {}): Promise<T> {
  const given = Object.entries(query).filter(([, value]) => value !== undefined)
  const search = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString()
  return request('GET', search ? `${path}?${search}` : path)
}

export const post = <T = void>(path: string, body: unknown = {}): Promise<T> => request('POST', path, body)
export const patch = (path: string, body: unknown): Promise<void> => request('PATCH', path, body)
export const remove = (path: string): Promise<void> => request('DELETE', path)
/** For actions without a body. */
export const act = <T = void>(path: string): Promise<T> => request('POST', path)
