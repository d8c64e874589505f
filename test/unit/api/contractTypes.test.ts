// SPDX-License-Identifier: Apache-2.0
/** What does not fit the contract does not compile: each line below is an error that the type check has to find. */
import { Type } from 'typebox'
import { expect, test } from 'vitest'
import { requestFor } from '../../../server/api/schemas/request.ts'
import type { Handlers, Routes } from '../../../server/api/schemas/route.ts'
import type { Client } from '../../../server/cli/ctl/client.ts'

const routes = {
  'GET /things/:id': {
    id: 'getThing',
    tag: 'server',
    summary: 'a thing',
    params: Type.Object({ id: Type.Integer() }),
    answer: Type.Object({ name: Type.String(), size: Type.Optional(Type.Integer()) }),
  },
} as const satisfies Routes

test('a handler answers what its schema says', () => {
  const right: Handlers<typeof routes> = { 'GET /things/:id': ({ params }) => ({ name: String(params.id) }) }
  const wrong: Handlers<typeof routes>[] = [
    // @ts-expect-error a field is missing
    { 'GET /things/:id': () => ({ size: 1 }) },
    // @ts-expect-error a field has another type
    { 'GET /things/:id': () => ({ name: 7 }) },
    // @ts-expect-error as a promise
    { 'GET /things/:id': async () => ({ name: 7 }) },
    // @ts-expect-error undefined is not absent
    { 'GET /things/:id': () => ({ name: '', size: undefined }) },
    // @ts-expect-error a parameter that there is not
    { 'GET /things/:id': ({ params }) => ({ name: params.name }) },
    // @ts-expect-error nobody answers
    {},
  ]
  expect([right, ...wrong]).toHaveLength(7)
})

test('a client asks for what there is, and gets what is answered', () => {
  const calls = async (client: Client) => {
    const { state } = await client.call('GET /machine')
    // @ts-expect-error there is no such state
    if (state === 'asleep') return
    // @ts-expect-error there is no such route
    await client.call('GET /machines')
    // @ts-expect-error the parameter is missing
    await client.call('GET /traps/:id')
    // @ts-expect-error the body has no such field
    await client.call('POST /machine/start', { body: { cpus: 2 } })
    // @ts-expect-error the answer has no such field
    ;(await client.call('GET /traps/:id', { params: { id: 1 } })).rows
  }
  expect(calls).toBeInstanceOf(Function)
})

test.each([
  [requestFor('GET /machine'), { method: 'GET', path: '/api/v1/machine' }],
  [requestFor('GET /traps/:id', { params: { id: 7 } }), { method: 'GET', path: '/api/v1/traps/7' }],
  [
    requestFor('POST /faults/:rule/fire', { params: { rule: 'a/../b?c' } }),
    { method: 'POST', path: '/api/v1/faults/a%2F..%2Fb%3Fc/fire' },
  ],
  [
    requestFor('GET /traps', { query: { text: 'a&b', limit: undefined, after: 0 } }),
    { method: 'GET', path: '/api/v1/traps?text=a%26b&after=0' },
  ],
  [requestFor('POST /break', { body: { on: false } }), { method: 'POST', path: '/api/v1/break', body: '{"on":false}' }],
])('%j', (request, expected) => {
  expect(request).toEqual(expected)
})
