// SPDX-License-Identifier: Apache-2.0
/** The behaviour reference as the dashboard shows it: nothing of it is lost, nothing of Markdown is left. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Block, type Inline, parseInline, parseMarkdown } from '../../../server/web/src/markdown.ts'
import { headings, ROOT } from '../docs/markdown.ts'

const text = readFileSync(join(ROOT, 'server/hypervisor/README.md'), 'utf8')
const blocks = parseMarkdown(text)

function* cellsOf(block: Block): Generator<readonly Inline[]> {
  if (block.kind === 'list') yield* block.items
  else if (block.kind === 'table') for (const row of [block.head, ...block.rows]) yield* row
  else yield block.inner
}

function* partsOf(inner: readonly Inline[]): Generator<Exclude<Inline, { kind: 'link' }>> {
  for (const part of inner) {
    if (part.kind === 'link') yield* partsOf(part.inner)
    else yield part
  }
}

const plain = (inner: readonly Inline[]) => [...partsOf(inner)].map(part => part.text).join('')

test('its headings have the anchors that links and warnings lead to', () => {
  const shown = blocks.flatMap(block => (block.kind === 'heading' ? [block.anchor] : []))
  expect(shown).toEqual(headings(text).map(({ anchor }) => anchor))
})

test('every row of a table has a cell for every column', () => {
  const tables = blocks.filter(block => block.kind === 'table')
  expect(tables.length).toBeGreaterThan(15)
  for (const { head, rows } of tables) for (const row of rows) expect(row.length).toBe(head.length)
})

test('nothing of Markdown is left in what is shown', () => {
  for (const block of blocks) {
    for (const inner of cellsOf(block)) {
      for (const part of partsOf(inner)) {
        if (part.kind !== 'code') expect(part.text).not.toMatch(/`|\]\(|\*\*|\||^#+ |\\/)
      }
    }
  }
})

test('every word is shown', () => {
  const words = (from: string) => from.match(/[\p{L}\p{N}]+/gu) ?? []
  const shown = new Map<string, number>()
  for (const block of blocks) {
    for (const inner of cellsOf(block))
      for (const word of words(plain(inner))) shown.set(word, (shown.get(word) ?? 0) + 1)
  }
  // Targets of links and the numbers of lists are not words.
  const read = text.replace(/\]\([^)]*\)/g, ']').replace(/^\d+\. /gm, '')
  for (const word of words(read)) {
    const left = shown.get(word) ?? 0
    expect(left, word).toBeGreaterThan(0)
    shown.set(word, left - 1)
  }
  expect([...shown].filter(([, left]) => left !== 0)).toEqual([])
})

test('what stands in a line', () => {
  expect(parseInline('a `HYP_x_y` _b_ TLBI_NH_ALL **c** [`d` e](f#g) \\| 2\\*3')).toEqual([
    { kind: 'text', text: 'a ' },
    { kind: 'code', text: 'HYP_x_y' },
    { kind: 'text', text: ' ' },
    { kind: 'em', text: 'b' },
    { kind: 'text', text: ' TLBI_NH_ALL ' },
    { kind: 'strong', text: 'c' },
    { kind: 'text', text: ' ' },
    {
      kind: 'link',
      target: 'f#g',
      inner: [
        { kind: 'code', text: 'd' },
        { kind: 'text', text: ' e' },
      ],
    },
    { kind: 'text', text: ' | 2*3' },
  ])
})

test('lists and headings without a blank line between them and their text', () => {
  expect(parseMarkdown('# A\nb\nc\n\n1. d\n   e\n2. f\n\n- g\n').map(({ kind }) => kind)).toEqual([
    'heading',
    'paragraph',
    'list',
    'list',
  ])
  const [, , list] = parseMarkdown('# A\nb\n\n1. d\n   e\n2. f\n')
  expect(list).toEqual({
    kind: 'list',
    ordered: true,
    items: [[{ kind: 'text', text: 'd e' }], [{ kind: 'text', text: 'f' }]],
  })
})
