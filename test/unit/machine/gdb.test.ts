// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { gdbCommand, gdbServer } from '../../../server/machine/gdb.ts'

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
  expect(words(gdbCommand('/tmp/gdb', { file: `/home/o'neil/k.elf`, offset: 0n }))).toEqual([
    '-ex',
    `symbol-file /home/o'neil/k.elf`,
    '-ex',
    'target remote /tmp/gdb',
  ])
  const moved = gdbCommand('127.0.0.1:1', { file: '/vmlinux', offset: -0x1_0000n })
  expect(words(moved)[1]).toBe('symbol-file -o 0xffffffffffff0000 /vmlinux')
})
