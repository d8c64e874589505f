// SPDX-License-Identifier: Apache-2.0
import { signal } from '@preact/signals'
import type { Answer, InputArgs, RouteName } from '../../api/schemas/contract.ts'
import type { FieldError, ProblemBody } from '../../api/schemas/problem.ts'
import { type HttpRequest, PREFIX, requestFor } from '../../api/schemas/request.ts'
import { recording } from './recorded/open.ts'

/** The server needs a token, and has not got the right one from this page. */
export const locked = signal(false)

const KEY = 'smmu-cosim-token'

/** The token may come in the fragment of the URL, which is not sent to any server. */
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

/** @throws ApiError */
async function send({ method, path, body }: HttpRequest): Promise<Response> {
  let response: Response
  try {
    response = await fetch(path, {
      method,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(token !== null && { authorization: `Bearer ${token}` }),
      },
      ...(body !== undefined && { body }),
    })
  } catch {
    throw new ApiError(0, 'the server cannot be reached')
  }
  if (response.status === 401) locked.value = true
  if (response.ok) return response
  const { detail, title, errors } = (await response.json().catch(() => ({}))) as Partial<ProblemBody>
  throw new ApiError(response.status, detail ?? title ?? `status ${response.status}`, errors)
}

/** Asks for a route of the API. @throws ApiError */
export async function call<K extends RouteName>(route: K, ...[input]: InputArgs<K>): Promise<Answer<K>> {
  const recorded = recording.peek()
  if (recorded !== undefined) {
    return recorded.views.call(route, input).catch((error: Error & { readonly status?: number }) => {
      throw new ApiError(error.status ?? 409, error.message)
    })
  }
  const response = await send(requestFor(route, input))
  return (response.status === 204 ? undefined : await response.json()) as Answer<K>
}

/** A file of the server. @param path with its prefix @throws ApiError */
export async function fetchFile(path: string): Promise<Blob> {
  return (await send({ method: 'GET', path })).blob()
}

/** Saves the recording that is shown, or that of the run, as a file. */
export async function downloadTrace(name: string): Promise<void> {
  const recorded = recording.peek()
  const blob =
    recorded === undefined
      ? await fetchFile(`${PREFIX}/trace`)
      : new Blob([new Uint8Array(recorded.file.bytes)], { type: 'application/octet-stream' })
  const link = document.createElement('a')
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  URL.revokeObjectURL(link.href)
}
