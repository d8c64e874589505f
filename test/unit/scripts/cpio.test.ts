// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { type CpioEntry, writeCpio } from '../../../scripts/setup/cpio.ts'

interface Record {
  name: string
  mode: number
  mtime: number
  rdev: [number, number]
  content: string
}

/** A reader written from the format's description, to hold the writer against. */
function readCpio(archive: Uint8Array): Record[] {
  const bytes = Buffer.from(archive)
  const records: Record[] = []
  for (let at = 0; at < bytes.length; ) {
    expect(bytes.toString('latin1', at, at + 6)).toBe('070701')
    const field = (index: number) =>
      Number.parseInt(bytes.toString('latin1', at + 6 + 8 * index, at + 14 + 8 * index), 16)
    const nameEnd = at + 110 + field(11)
    const name = bytes.toString('utf8', at + 110, nameEnd - 1)
    const contentStart = nameEnd + (-nameEnd & 3)
    const contentEnd = contentStart + field(6)
    const content = bytes.toString('utf8', contentStart, contentEnd)
    records.push({ name, mode: field(1), mtime: field(5), rdev: [field(9), field(10)], content })
    at = contentEnd + (-contentEnd & 3)
  }
  return records
}

const entries: CpioEntry[] = [
  { path: 'init', type: 'file', mode: 0o755, content: Buffer.from('#!/bin/sh\n') },
  { path: 'dev/console', type: 'character-device', mode: 0o600, major: 5, minor: 1 },
  { path: 'bin/sh', type: 'symlink', target: 'busybox' },
  { path: 'proc', type: 'directory' },
]

test('an archive holds what was put in, with the folders that were not named', () => {
  const archive = readCpio(writeCpio(entries))
  expect(archive.map(({ name, mode }) => `${mode.toString(8)} ${name}`)).toEqual([
    '40755 bin',
    '120777 bin/sh',
    '40755 dev',
    '20600 dev/console',
    '100755 init',
    '40755 proc',
    '0 TRAILER!!!',
  ])
  expect(archive[1]?.content).toBe('busybox')
  expect(archive[3]?.rdev).toEqual([5, 1])
  expect(archive[4]?.content).toBe('#!/bin/sh\n')
})

test('the same entries give the same bytes in any order', () => {
  expect(writeCpio(entries.toReversed())).toEqual(writeCpio(entries))
  expect(readCpio(writeCpio(entries)).every(({ mtime }) => mtime === 0)).toBe(true)
})

test.each([0, 1, 2, 3, 4, 5])('content of %i bytes is padded to a multiple of four', length => {
  const content = Buffer.from('x'.repeat(length))
  const archive = writeCpio([{ path: 'file', type: 'file', mode: 0o644, content }])
  expect(archive.length % 4).toBe(0)
  expect(readCpio(archive)[0]?.content).toBe('x'.repeat(length))
})
