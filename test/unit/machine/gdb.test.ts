// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { expect, test } from 'vitest'
import { expectFree, gdbCommand, gdbServer } from '../../../server/machine/gdb.ts'

/** The words that a shell makes of a line. */
const words = (line: string): string[] =>
  execFileSync('sh', ['-c', `printf '%s\\n' ${line.replace(/^gdb-multiarch /, '')}`], { encoding: 'utf8' })
    .trimEnd()
    .split('\n')

test('gdb is let in by a socket of its own user, or a port of the loopback interface', () => {
  expect(gdbServer('/tmp/run')).toEqual({ device: 'unix:/tmp/run/gdb,server=on,wait=off', target: '/tmp/run/gdb' })
  expect(gdbServer('/tmp/a,b').device).toBe('unix:/tmp/a,,b/gdb,server=on,wait=off')
  expect(gdbServer('/tmp/run', 1234)).toEqual({ device: 'tcp:127.0.0.1:1234', target: '127.0.0.1:1234' })
})

test('what is to be typed, whatever folders are called', () => {
  expect(words(gdbCommand('/tmp/run/gdb'))).toEqual(['-ex', 'target remote /tmp/run/gdb'])
  expect(words(gdbCommand('/tmp/gdb', { file: `/home/o'neil/my k.elf`, offset: 0n }))).toEqual([
    '-ex',
    // gdb takes it apart once more.
    "symbol-file /home/o\\'neil/my\\ k.elf",
    '-ex',
    'target remote /tmp/gdb',
  ])
  const moved = gdbCommand('127.0.0.1:1', { file: '/vmlinux', offset: -0x1_0000n })
  expect(words(moved)[1]).toBe('symbol-file -o 0xffffffffffff0000 /vmlinux')
})

test('a port where somebody listens is no port for gdb; one that is free still is afterwards', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await expect(expectFree(port, '--gdb')).rejects.toThrow(`127.0.0.1:${port} is in use: choose another --gdb`)
  server.close()
  await once(server, 'close')
  await expectFree(port, '--gdb')
  await expectFree(port, '--gdb')
})
