// SPDX-License-Identifier: Apache-2.0
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { readToken } from '../../../server/cli/tokenFile.ts'
import { qemuArguments } from '../../../server/machine/qemu.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'

const TOKEN = '5f0b6d1c9a874e23b1d0c4f8e6a79235'

let folder: string
const file = () => join(folder, 'token')
beforeEach(() => {
  folder = privateFolder(tmpdir(), 'token-')
})
afterEach(() => rmSync(folder, { recursive: true }))

function write(text: string, mode = 0o600): void {
  writeFileSync(file(), text)
  chmodSync(file(), mode)
}

test.each(['', '\n', '\r\n'])('the end of its line is not part of it: %j', end => {
  write(TOKEN + end)
  expect(readToken(file()).toString()).toBe(TOKEN)
})

test.each([
  ['too few bits', '0123456789abcdef', 'has 64 bits at most, fewer than 128'],
  ['one character again and again', 'a'.repeat(64), 'has 0 bits at most'],
  ['two lines', `${TOKEN}\n${TOKEN}\n`, 'expected one line without spaces'],
  ['spaces', `${TOKEN} ${TOKEN}`, 'expected one line without spaces'],
  ['no text', `${TOKEN}\0`, 'expected one line without spaces'],
  ['too long', 'ab3f'.repeat(257), 'expected one line without spaces'],
  ['empty', '', 'bits at most, fewer than 128'],
])('%s: refused', (_name, text, message) => {
  write(text)
  expect(() => readToken(file())).toThrow(message)
})

test.each([0o640, 0o604, 0o620])('with mode %o, others could know it: refused', mode => {
  write(TOKEN, mode)
  expect(() => readToken(file())).toThrow('others can read or write it (chmod 600)')
})

test('what is no file, and none at all', () => {
  mkdirSync(file())
  expect(() => readToken(file())).toThrow(`--token-file ${file()}: not a regular file`)
  expect(() => readToken(join(folder, 'none'))).toThrow('ENOENT')
})

test.each([
  [{ host: '192.0.2.1', port: 4711 }, 'addr=192.0.2.1:4711'],
  [{ host: '::1', port: 4711 }, 'addr=[::1]:4711'],
  ['/run/tr,ap', 'path=/run/tr,,ap'],
])('QEMU is told where the server is, and of the file: %j', (server, where) => {
  const args = qemuArguments({
    ...{ binary: 'qemu', sandbox: true, kernel: 'kernel', append: '', memory: '1G', smp: 1, ramFile: 'ram' },
    ...{ network: false, qmpSocket: 'qmp', extra: [], cosim: { server, carveout: '0', tokenFile: '/a,b' } },
  })
  const secret = args.indexOf('secret,id=cosim-token,file=/a,,b')
  const object = args.indexOf(`smmu-cosim,id=cosim,${where},token-secret=cosim-token`)
  expect(secret).toBeGreaterThan(0)
  // Its properties name objects that are there already.
  expect(object).toBeGreaterThan(secret)
})
