// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { ConsolePrinter, report, say } from '../../../server/cli/terminal.ts'
import { escaped } from '../../../server/trace/terminal.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

test('what a guest says cannot look like a line of the report', () => {
  const error = vi.spyOn(console, 'error').mockImplementation(() => {})
  report(['  DMA read x\n  devices are isolated\r\nok', '  devices are NOT isolated'])
  expect(error.mock.calls).toEqual([
    ['  DMA read x\n        |   devices are isolated\n        | ok\n  devices are NOT isolated'],
  ])
})

describe('text from elsewhere', () => {
  test.each([
    ['a cursor that moves', 'a\x1b[2J\x1b[Hb', 'a\\u001b[2J\\u001b[Hb'],
    ['a title that answers', '\x1b]0;x\x07', '\\u001b]0;x\\u0007'],
    ['the 8-bit form', '\x9b2J', '\\u009b2J'],
    ['a line written over', 'ok\rFAILED', 'ok\\u000dFAILED'],
    ['DEL and backspace', 'a\x7f\b', 'a\\u007f\\u0008'],
    ['text that is turned around', 'user\u202eexe', 'user\\u202eexe'],
    ['a separator of lines', 'a\u2028b', 'a\\u2028b'],
    ['half a character', 'a\ud800b', 'a\ufffdb'],
    ['what is fine', 'µs → ×3\tü\r\n😀\n', 'µs → ×3\tü\r\n😀\n'],
  ])('%s', (_what, text, expected) => {
    expect(escaped(text)).toBe(expected)
  })

  test('nothing that a terminal obeys is left, and nothing else is changed', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), text => {
        const shown = escaped(text)
        // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what it is about
        expect(shown).not.toMatch(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]|\r(?!\n)/)
        const back = shown.replace(/\\u([0-9a-f]{4})/g, (_, hex: string) =>
          String.fromCharCode(Number.parseInt(hex, 16)),
        )
        if (!text.includes('\\u')) expect(back).toBe(text.toWellFormed())
      }),
      { seed: 1, numRuns: 500 },
    )
  })

  test('JSON stays what it is', () => {
    const value = { text: 'a\x1b\x9b\u202e\u2028\\u001b"' }
    expect(JSON.parse(escaped(JSON.stringify(value)))).toEqual(value)
  })
})

test('a message of several lines cannot pose as another', () => {
  const error = vi.spyOn(console, 'error').mockReturnValue()
  say('QEMU said\nsmmu-cosim: ok\x1b[0m')
  report(['a', 'b\x07'])
  expect(error.mock.calls).toEqual([['smmu-cosim: QEMU said\nsmmu-cosim:   smmu-cosim: ok\\u001b[0m'], ['a\nb\\u0007']])
})

test('a console in pieces: characters and line ends stay whole', () => {
  let out = ''
  vi.spyOn(process.stdout, 'write').mockImplementation(text => {
    out += String(text)
    return true
  })
  const bytes = Buffer.from('µ\r\nx\ry\x1b[1m\r\n')
  const printer = new ConsolePrinter()
  for (const byte of bytes) printer.write(Buffer.of(byte))
  expect(out).toBe('µ\r\nx\\u000dy\\u001b[1m\r\n')
})

test('nothing else prints', () => {
  const server = fileURLToPath(new URL('../../../server/', import.meta.url))
  const printing = readdirSync(server, { recursive: true, encoding: 'utf8' })
    .filter(name => /\.ts$/.test(name) && !name.startsWith('web'))
    .filter(name => {
      const code = readFileSync(join(server, name), 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
      return /console\.(log|error|warn|info)\(|process\.std(out|err)\b/.test(code)
    })
  // Two are processes whose output is a pipe: the bytes of a file, and what is wrong.
  expect(printing.sort()).toEqual(['cli/terminal.ts', 'fleet/publishImage.ts', 'fleet/readImage.ts', 'trace/output.ts'])
})
