// SPDX-License-Identifier: Apache-2.0
/** `smmu-cosim walk`: what it asks of the API, and what it prints. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
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

const RECORDING = fileURLToPath(new URL('../trace/recordings/6.12-nested.gz', import.meta.url))
const walk = (...args: string[]) => cosim(['walk', '--sid', '8', '--iova', '0xffff0000', ...args])

test('of a recording: the same lines, up to what it does not hold', async () => {
  const { code, stdout, stderr } = await walk('--recording', RECORDING)
  expect(stderr).toBe('smmu-cosim: as it stood at the end of the recording, after trap 500\n')
  const lines = stdout.trimEnd().split('\n')
  expect(lines[1]).toMatch(/^STE +0x7c218200 +V nested /)
  expect(lines[2]).toMatch(/^S2 +L0 0x7c011000 += 0x7c012003 table 0x7c012000 \[for the context descriptor\]$/)
  const cd = /S1ContextPtr=(0x[0-9a-f]+)/.exec(lines[1] ?? '')?.[1]
  expect(lines.slice(-2)).toEqual([
    `CD       ${cd}   (IPA ${cd}) not in the recording`,
    `unknown: not in the recording: 64 bytes at ${cd}`,
  ])
  expect(code).toBe(1)
})

test.each([
  ['--recording, --at beyond its end', ['--recording', RECORDING, '--at', '9999'], /no trap 9999; its last is 500/, 1],
  ['--at without --recording', ['--at', '5'], /--at is for a walk of a recording/, 2],
  ['a file that is no recording', ['--recording', fileURLToPath(import.meta.url)], /this is no trace/, 1],
  ['a running machine and a recording', ['--recording', RECORDING, '--url', 'http://x/'], /cannot be used with/, 2],
])('%s is refused', async (_name, args, message, status) => {
  const { code, stderr } = await walk(...args)
  expect(stderr).toMatch(message)
  expect(code).toBe(status)
})
