// SPDX-License-Identifier: Apache-2.0
/** The behaviour reference, server/hypervisor/README.md: its tables are the code's, and what cites it finds its sections. */
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { commandRules } from '../../../server/hypervisor/pkvm/commandRules.ts'
import { frameRules } from '../../../server/hypervisor/pkvm/frame.ts'
import { HYP_WARNINGS } from '../../../server/hypervisor/pkvm/warnings.ts'
import { opcodeName } from '../../../server/smmu/commands.ts'
import { REGISTERS } from '../../../server/smmu/registers.ts'
import { files, type Heading, headings, links, prose, ROOT, tableBelow } from './markdown.ts'

const REFERENCE = 'server/hypervisor/README.md'
const text = readFileSync(join(ROOT, REFERENCE), 'utf8')
const all = headings(text)
const numbers = all.map(({ number }) => number).filter(number => number !== '')

function section(number: string): Heading {
  const found = all.find(heading => heading.number === number)
  if (found === undefined) throw new Error(`${REFERENCE} has no section ${number}`)
  return found
}

/** Text of a section with all below it. */
function body(number: string): string {
  const { level, text: title } = section(number)
  const [, rest = ''] = text.split(`${'#'.repeat(level)} ${title}\n`)
  return rest.split(new RegExp(`^#{1,${level}} `, 'm'))[0] ?? ''
}

interface Citation {
  readonly words: string
  /** The document that is cited; empty where the citation does not say. */
  readonly document: string
  readonly sections: readonly string[]
}

/** Citations of numbered sections in a source or document, wherever a line ends. */
function citations(source: string): Citation[] {
  // A link says where it leads: links.test.ts follows it.
  const linked = source.replace(/\[[^\]]*\]\([^)\s]*#[^)\s]+\)/g, '')
  const joined = linked.replace(/\s*\n\s*(?:\*|\/\/|#)?\s*/g, ' ')
  const form =
    /(?:(IHI 0070|DDI 0487|server\/hypervisor\/README\.md),? )?\bsections? (\d+(?:\.\d+)*(?:(?:, | and | to )\d+(?:\.\d+)*)*)/gi
  return [...joined.matchAll(form)].map(([words, document = '', list = '']) => ({
    words,
    document,
    sections: list.match(/\d+(?:\.\d+)*/g) ?? [],
  }))
}

/** What is wrong with the citations of a file. */
function mistakes(source: string): string[] {
  return citations(source).flatMap(({ words, document, sections }) => {
    if (document === '') return [`${words}: of which document?`]
    if (document !== REFERENCE) return []
    return sections.filter(number => !numbers.includes(number)).map(number => `${words}: no section ${number}`)
  })
}

describe('headings', () => {
  test('count up, each once', () => {
    const top = numbers.filter(number => !number.includes('.'))
    expect(top).toEqual(top.map((_, i) => String(i + 1)))
    for (const parent of top) {
      const below = numbers.filter(number => number.startsWith(`${parent}.`))
      expect(below).toEqual(below.map((_, i) => `${parent}.${i + 1}`))
    }
    expect(numbers.length).toBeGreaterThan(20)
  })

  test('links with a section number lead to that section', () => {
    const own = links(text).filter(({ text: words, target }) => target.startsWith('#') && /\d/.test(words))
    expect(own.length).toBeGreaterThan(10)
    for (const { text: words, target } of own) {
      const number = /\d+(?:\.\d+)*/.exec(words)?.[0] ?? ''
      expect(target).toBe(`#${section(number).anchor}`)
    }
  })

  test('sections that its text names exist', () => {
    const named = [...prose(text).matchAll(/(?<!0070 )sections? (\d+(?:\.\d+)*)/gi)].map(([, number]) => number)
    expect(named.length).toBeGreaterThan(10)
    expect(named.filter(number => number !== undefined && !numbers.includes(number))).toEqual([])
  })
})

describe('citations', () => {
  const cited = (...parts: string[]) => parts.join(' ')

  test('are told apart by their words', () => {
    const here = `${REFERENCE},`
    expect(mistakes(cited('see', here, 'section', '6.2).'))).toEqual([])
    expect(mistakes(cited('see', here, 'sections', '2 to 5, 6.1 and 7).'))).toEqual([])
    expect(mistakes(cited('see', here, 'sections', '2 to 99).'))).toHaveLength(1)
    expect(mistakes(cited('see', here, 'section', '6.99'))).toHaveLength(1)
    expect(mistakes(cited('see', here, '\n   * section', '99'))).toHaveLength(1)
    expect(mistakes(cited('see', 'IHI 0070', 'section', '99.1'))).toEqual([])
    expect(mistakes(cited('see', '// IHI 0070\n  //', 'section', '99.1'))).toEqual([])
    expect(mistakes(cited('the', 'section', '4'))).toHaveLength(1)
    expect(mistakes(cited('registers (section', '4)'))).toHaveLength(1)
    expect(mistakes('section4-registers.test.ts')).toEqual([])
  })

  const sources = files('.ts', '.tsx', '.mjs', '.c', '.yaml', '.yml', '.sh', '.md').filter(path => path !== REFERENCE)

  test('of every file lead to a section', () => {
    const found = sources.flatMap(path =>
      mistakes(readFileSync(join(ROOT, path), 'utf8')).map(mistake => `${path}: ${mistake}`),
    )
    expect(found).toEqual([])
    const count = sources.flatMap(path => citations(readFileSync(join(ROOT, path), 'utf8'))).length
    expect(count).toBeGreaterThan(80)
  })

  test.each(sources.filter(path => /\/section\d+-/.test(path)))('%s is about the section in its name', path => {
    const number = /section(\d+)-/.exec(basename(path))?.[1]
    const [first] = citations(readFileSync(join(ROOT, path), 'utf8')).filter(({ document }) => document === REFERENCE)
    expect(first?.sections).toEqual([number])
  })
})

describe('hyp warnings', () => {
  const rows = tableBelow(text, section('15'))

  test('the table is the code', () => {
    const expected = HYP_WARNINGS.map(({ id, code, section: link, expected }) => [
      String(id),
      code,
      `[${/#(\d+)/.exec(link)?.[1]}](${link.slice(link.indexOf('#'))})`,
      expected ? 'yes' : '',
    ])
    expect(rows).toEqual(expected)
  })

  test.each(HYP_WARNINGS.map(({ code, section: link }) => ({ code, link })))('$code: $link', ({ code, link }) => {
    const [document, anchor] = link.split('#')
    expect(document).toBe(REFERENCE)
    const heading = all.find(candidate => candidate.anchor === anchor)
    expect(heading).toBeDefined()
    expect(body(heading?.number ?? '')).toContain(code)
  })

  test('codes in the text are codes of the table', () => {
    const codes = new Set(HYP_WARNINGS.map(({ code }) => code))
    expect((text.match(/HYP_[A-Z0-9_]+/g) ?? []).filter(code => !codes.has(code))).toEqual([])
  })
})

test('the registers are those of the frame: offset, name, width, directions', () => {
  const rows = tableBelow(text, section('4.2')).map(([offset = '', name, bits, read, write]) => ({
    offset: Number(offset),
    name,
    bits: Number(bits),
    read: read !== '–',
    write: write !== '–',
    hw: [read, write].map(cell => cell === 'hw'),
  }))
  const rules = frameRules('nested', new Set())
  const hwRead = rules.get(0x04)?.read
  const hwWrite = rules.get(0x2c)?.write
  const expected = [...rules]
    .sort(([a], [b]) => a - b)
    .map(([offset, { bits, read, write }]) => ({
      ...{ offset, name: REGISTERS.find(register => register.offset === offset)?.name, bits },
      ...{ read: read !== undefined, write: write !== undefined },
      hw: [read === hwRead, write !== undefined && write === hwWrite],
    }))
  expect(rows).toEqual(expected)
})

test('the commands are those that have a rule', () => {
  const rows = tableBelow(text, section('6.2')).map(([opcode, names = '']) => [opcode, names.split(', ')[0]])
  const expected = commandRules(true, new Set()).flatMap((rule, opcode) =>
    rule === undefined ? [] : [[`0x${opcode.toString(16).padStart(2, '0')}`, opcodeName(opcode)]],
  )
  expect(rows).toEqual([...expected, ['all other', '']])
})
