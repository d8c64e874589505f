// SPDX-License-Identifier: Apache-2.0
/** Texts of rules that cost more than they should: each ends soon, with a complaint, and meanwhile the process goes on. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { FaultFileError, MAX_FILE_BYTES } from '../../../server/faults/load.ts'
import { loadAside, parseAside } from '../../../server/faults/loadAside.ts'
import { folder } from '../trace/synthetic.ts'

const GOOD = 'rules: [{ name: a, where: { at: command }, what: { do: drop } }]'

async function complaint(reading: Promise<unknown>): Promise<string> {
  try {
    await reading
    return 'it was read'
  } catch (error) {
    if (!(error instanceof FaultFileError)) throw error
    return error.message
  }
}

const many = (n: number, text: (i: number) => string, between = '') =>
  Array.from({ length: n }, (_, i) => text(i)).join(between)

describe('a hostile text', () => {
  test.each([
    ['a map of very many keys', `rules: {${many(8_000, i => `k${i}: 1`, ', ')}}`, 'expected a list of 1 to 64 rules'],
    ['the same key again', 'rules: []\nrules: []', 'there is a "rules" here already'],
    ['lists in lists', '['.repeat(30_000), 'nested more than 64 deep'],
    ['maps in maps', '{a: '.repeat(15_000), 'nested more than 64 deep'],
    ['keys that are maps', '? '.repeat(30_000), 'nested more than 64 deep'],
    ['lines further and further to the right', many(300, i => `${' '.repeat(i)}a:\n`), 'nested more than 64 deep'],
    [
      'references to references',
      [
        'a: &a [x, x]',
        ...many(
          20,
          i =>
            `${'bcdefghijklmnopqrstu'[i]}: &${'bcdefghijklmnopqrstu'[i]} [*${'abcdefghijklmnopqrst'[i]}, *${'abcdefghijklmnopqrst'[i]}]`,
          '\n',
        ).split('\n'),
      ].join('\n'),
      'Excessive alias count',
    ],
    ['many anchors', many(6_000, i => `&x${i} a${i}: 1`, '\n'), 'expected either "rules:"'],
    ['nothing but marks', `rules: [${'}'.repeat(59_000)}`, 'Flow sequence in block collection'],
    ['more than anybody writes', `rules: [${'a,'.repeat(200_000)}]`, 'more than 100000 words and marks'],
    ['a second document', `${GOOD}\n---\n${GOOD}`, 'a second document: a file has one'],
    ['nothing', '', 'expected either "rules:"'],
    ['fields that nobody knows, very many', `rules: []\n${many(12_000, i => `k${i}: 1`, '\n')}`, 'no field "k0" here'],
  ])('%s', async (_what, text, message) => {
    let gap = 0
    let last = performance.now()
    const beat = setInterval(() => {
      gap = Math.max(gap, performance.now() - last)
      last = performance.now()
    }, 10)
    const said = await complaint(parseAside(text, 'f'))
    clearInterval(beat)
    expect(said).toContain(message)
    expect(said.split('\n').length).toBeLessThanOrEqual(50)
    // Neither the parser nor what it is compared with is run here.
    expect(gap).toBeLessThan(1_000)
  })

  test('a file that is too large is not read', async () => {
    const path = join(folder(), 'large.yaml')
    writeFileSync(path, Buffer.alloc(MAX_FILE_BYTES + 1, '#'))
    expect(await complaint(loadAside(path))).toBe(`${path}:1:1: ${MAX_FILE_BYTES + 1} bytes, at most ${MAX_FILE_BYTES}`)
  })

  test('what takes too long is ended, and what comes after it is read', async () => {
    const slow = complaint(parseAside(`rules: [${'}'.repeat(59_000)}`, 'f', {}, { deadlineMs: 1 }))
    const after = parseAside(GOOD, 'g')
    expect(await slow).toBe('f:1:1: the text is too much: not read in 0.001 s')
    expect((await after).rules).toHaveLength(1)
  })

  test('there is an end to those that wait', async () => {
    const all = await Promise.all(Array.from({ length: 40 }, () => complaint(parseAside(GOOD, 'f'))))
    expect(all.filter(said => said === 'it was read')).toHaveLength(16)
    expect(all.filter(said => said.includes('texts wait to be read'))).toHaveLength(24)
    expect((await parseAside(GOOD, 'f')).rules).toHaveLength(1)
  })
})

test('the thread keeps no process alive', async () => {
  await parseAside(GOOD, 'f')
  await sleep(10)
  const workers = process.getActiveResourcesInfo().filter(name => name === 'MessagePort')
  expect(workers).toEqual([])
})
