// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim walk`: what it asks of the API, and what it prints. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import { cosim } from '../../boot/cli.ts'

const step = { ipa: null, level: null, purpose: null }
const ANSWER = {
  outcome: 'translated',
  text: '0x5000 rw- 4 KiB',
  steps: [
    { ...step, what: 'STE', address: '0x1000', words: ['0x1', '0x2'], text: 'V s1' },
    { ...step, what: 'S1', level: 3, address: '0x2000', ipa: '0x3000', words: ['0x5403'], text: 'page 0x5000 AF' },
  ],
}

test('asks for the walk and prints every fetch with address, value and meaning', async () => {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url ?? '')
    response.setHeader('content-type', 'application/json').end(JSON.stringify(ANSWER))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const { stdout, stderr } = await cosim(['walk', '--sid', '8', '--iova', '0x40000000', '--write', '--url', url])
  server.close()
  expect(stderr).toBe('')
  expect(asked[0]).toMatch(/^\/api\/v1\/smmus\/0\/walk\?sid=8&iova=.*&access=write$/)
  expect(stdout).toMatch(
    /^STE .*0x1000 +V s1\nS1 +L3 0x2000 +\(IPA 0x3000\) = 0x5403 page 0x5000 AF\ntranslated: 0x5000/,
  )
})
