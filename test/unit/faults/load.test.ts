// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { catalogue, entryNamed } from '../../../server/faults/catalogue.ts'
import { checkRules } from '../../../server/faults/check.ts'
import { FaultFileError, parseFile } from '../../../server/faults/load.ts'
import { ACTIONS, FileSchema, POINTS, VERDICTS } from '../../../server/faults/rule.ts'

/** Complaints of a file, as `line:column: message`. */
function complaints(text: string, context = {}): string[] {
  try {
    parseFile(text, 'f.yaml', context)
    return []
  } catch (error) {
    if (!(error instanceof FaultFileError)) throw error
    return error.complaints.map(({ line, column, message }) => `${line}:${column}: ${message}`)
  }
}

const rule = (where: string, what: string, when = '{}', name = 'a') =>
  `  - name: ${name}\n    where: { ${where} }\n    when: ${when}\n    what: { ${what} }\n`
const one = (...args: Parameters<typeof rule>) => `rules:\n${rule(...args)}`

describe('a right file', () => {
  test('YAML and JSON, both spellings of names, 64-bit numbers exactly', () => {
    const text = one(
      'at: register, register: ARM_SMMU_STRTAB_BASE, access: read',
      'do: change, xor: 0xffffffffffffffff',
    )
    expect(parseFile(text, 'f').rules?.[0]?.what).toEqual({ do: 'change', xor: '0xffffffffffffffff' })
    const json = JSON.stringify({
      rules: [{ name: 'a', where: { at: 'command', command: 'CMD_SYNC' }, what: { do: 'drop' } }],
    })
    expect(parseFile(json, 'f').rules).toHaveLength(1)
    for (const command of ['CMDQ_OP_CFGI_STE', 'CFGI_STE', 'CMD_CFGI_STE', 'CMDQ_OP_CMD_SYNC', 'CMDQ_OP_CFGI_ALL']) {
      expect(complaints(one(`at: command, command: ${command}`, 'do: drop'))).toEqual([])
    }
  })

  test.each([
    ['a register by its offset, as YAML has it', 'at: register, register: 0x20, access: read', 'do: freeze'],
    ['a StreamID as JSON has it', 'at: command, sid: "0x10"', 'do: drop'],
    ['the Leaf bit of CFGI_CD', 'at: command, command: CFGI_CD, leaf: true', 'do: drop'],
    ['the StreamID of CFGI_STE_RANGE', 'at: command, command: CFGI_STE_RANGE, sid: 8', 'do: drop'],
    ['the ASID of TLBI_EL2_VA', 'at: command, command: TLBI_EL2_VA, asid: 8', 'do: drop'],
    [
      'corruption of a table when a narrow register is written',
      'at: register, register: CR0, access: write',
      'do: corrupt, table: ste, sid: 8, xor: 0x100000000',
    ],
    ['one change of several', 'at: command', 'do: change, or: 0, xor: 1'],
  ])('%s', (_name, where, what) => {
    expect(complaints(one(where, what))).toEqual([])
  })
})

describe('what is wrong has its place, and a suggestion', () => {
  test.each([
    [
      'an unknown register',
      one('at: register, register: ARM_SMMU_CR0AKC, access: read', 'do: freeze'),
      '3:38:',
      'did you mean CR0ACK?',
    ],
    ['an unknown command', one('at: command, command: CFGI_SET', 'do: drop'), '3:36:', 'did you mean CFGI_STE?'],
    ['an unknown event', one('at: event, event: F_TRANSLATON', 'do: drop'), '3:32:', 'did you mean F_TRANSLATION?'],
    ['an unknown point', one('at: registre, access: read', 'do: drop'), '3:18:', 'did you mean register?'],
    ['an unknown action', one('at: command', 'do: dorp'), '5:17:', 'did you mean drop?'],
    ['an unknown field', one('at: command, comand: SYNC', 'do: drop'), '3:27:', 'did you mean command?'],
    ['an unknown condition', one('at: command', 'do: drop', '{ ntn: 3 }'), '4:13:', 'did you mean nth?'],
    ['an unknown warning', one('at: machine', 'do: warn, warning: HYP_UMAP'), '5:32:', 'did you mean HYP_UNMAP?'],
    ['a missing field', one('at: register', 'do: drop'), '3:12:', '"access" is missing'],
    ['a number out of range', one('at: command', 'do: drop', '{ nth: 0 }'), '4:18:', 'nth'],
    ['no YAML', 'rules:\n  - name: [', '2:', ''],
    ['neither rules nor entries', 'rule: []', '1:1:', 'expected either'],
    ['no rules', 'rules: []', '1:8:', '1 to 64'],
  ])('%s', (_name, text, place, message) => {
    const found = complaints(text)
    expect(found[0]).toContain(message)
    expect(found[0]?.startsWith(place), found[0]).toBe(true)
  })

  test('several complaints at once', () => {
    expect(complaints(one('at: command, comand: X', 'do: dorp'))).toHaveLength(2)
  })

  test('everything that is wrong is told at once, in the order of its lines: no mistake hides another one', () => {
    const text = [
      'rules:',
      '  - name: a',
      '    where: { at: register, register: CR0AKC, access: raed }',
      '    what: { do: set }',
      '    name: b',
      '  - where: { at: command, command: CFGI_SET, sdi: 8 }',
      '    name: c',
      '    what: { do: change, xor: 0 }',
      '    when: { after: nobody }',
      '  - name: d',
      '    where: { at: event, event: F_TRANSLATOIN }',
      '    what: { do: event, event: F_STE_FETHC }',
      '    when: { probability: 0, after: d }',
      'rule: 1',
    ].join('\n')
    const found = complaints(text)
    for (const [line, message] of [
      [3, 'no register "CR0AKC"; did you mean CR0ACK?'],
      [3, '"raed" is none of read, write; did you mean read?'],
      [4, '"value" is missing'],
      [5, 'there is a "name" here already'],
      [6, 'no command "CFGI_SET"; did you mean CFGI_STE?'],
      [6, 'no field "sdi" here; did you mean sid?'],
      [9, 'no rule "nobody"'],
      [11, 'no event "F_TRANSLATOIN"; did you mean F_TRANSLATION?'],
      [12, 'no event "F_STE_FETHC"; did you mean F_STE_FETCH?'],
      [14, 'no field "rule" here'],
    ] as const) {
      expect(
        found.find(text => text.startsWith(`${line}:`) && text.includes(message)),
        `${line}: ${message}`,
      ).toBeDefined()
    }
    const at = found.map(text => text.split(':').slice(0, 2).map(Number))
    expect(at).toEqual([...at].sort(([a = 0, b = 0], [c = 0, d = 0]) => a - c || b - d))
  })

  test.each([
    // A wrong field hides nothing of what the others say together, and a complaint that only follows from it is none.
    [
      'a probability, and what no read-only register does',
      'at: register, register: IDR0, access: write, sdi: 1',
      'do: set, value: 0x100000000',
      '{ probability: 0 }',
      ['is read-only', 'no field "sdi"', 'with probability 0', 'more than the 32 bits'],
    ],
    [
      'the code of a warning',
      'at: machine',
      'do: warn, warning: HYP_UMAP, count: 1',
      '{ nht: 1 }',
      ['no field "nht" here; did you mean nth?', 'did you mean HYP_UNMAP?', 'no field "count"'],
    ],
    ['a freeze of what is raed', 'at: register, access: raed', 'do: freeze', '{}', ['"raed" is none of']],
    ['a mask with a value', 'at: register, access: write, mask: 1, value: x', 'do: drop', '{}', ['"x"']],
    ['a misspelled address', 'at: table, table: stage2, adress: 0x1000', 'do: drop', '{}', ['no field "adress"']],
    ['a change by what is no number', 'at: command', 'do: change, xor: y', '{}', ['"y"']],
    ['an early SYCN', 'at: command, command: SYCN', 'do: early', '{}', ['no command "SYCN"']],
    ['an unknown table', 'at: machine', 'do: corrupt, table: l3, word: 1, xor: 1', '{}', ['"l3" is none of']],
    [
      'two mistakes in what an action says',
      'at: command',
      'do: change, word: 2, or: z, xor: 0',
      '{}',
      ['a command has 2 words', '"z"'],
    ],
  ])('%s', (_name, where, what, when, messages) => {
    const found = complaints(one(where, what, when), { translate: 'hardware' })
    expect(found).toEqual(messages.map(message => expect.stringContaining(message)))
  })

  test('two rules for one thing are told beside a third that is wrong', () => {
    const drop = (name: string) => rule('at: command, command: CFGI_STE', 'do: drop', '{}', name)
    const found = complaints(`rules:\n${drop('a')}${drop('b')}${rule('at: command', 'do: dorp', '{}', 'c')}`)
    expect(found).toEqual([
      expect.stringMatching(/^7:.*"a" acts at the same place/),
      expect.stringMatching(/^13:.*no do "dorp"/),
    ])
  })

  test('all that is no YAML, too', () => {
    const found = complaints('rules:\n  - name: "a\\q"\n    where: { at: command\n    what: { do: drop }\n')
    expect(found.length).toBeGreaterThan(1)
  })

  test.each(['x', 'nop', 'foobar'])('nothing is suggested that nobody meant: %s', name => {
    const [first] = complaints(one(`at: register, access: read, register: ${name}`, 'do: abort'))
    expect(first).toMatch(/no register "\w+"$/)
  })
})

describe('what can never be is refused', () => {
  test.each([
    ['a write of a read-only register', one('at: register, register: IDR0, access: write', 'do: drop'), 'read-only'],
    [
      'a value outside of its mask',
      one('at: register, register: CR0, access: write, mask: 1, value: 2', 'do: drop'),
      'never matches',
    ],
    [
      'a value wider than the register',
      one('at: register, register: CR0, access: write, value: 0x100000000', 'do: drop'),
      '32 bits',
    ],
    ['a mask without a value', one('at: register, register: CR0, access: write, mask: 1', 'do: drop'), 'says nothing'],
    ['a command field that it has not', one('at: command, command: CMD_SYNC, sid: 1', 'do: drop'), 'no StreamID'],
    ['probability 0', one('at: command', 'do: drop', '{ probability: 0 }'), 'never fires'],
    ['nth with times', one('at: command', 'do: drop', '{ nth: 2, times: 3 }'), 'neither skip nor times'],
    ['after itself', one('at: command', 'do: drop', '{ after: a }'), 'wait for itself'],
    ['after nobody', one('at: command', 'do: drop', '{ after: b }'), 'no rule "b"'],
    ['a bad expression', one('at: command', 'do: drop', "{ console: '(' }"), 'error parsing regexp'],
    [
      'an action of another point',
      one('at: register, access: read', 'do: drop'),
      'nothing that a register read can do',
    ],
    ['a change of nothing', one('at: command', 'do: change'), 'changes nothing'],
    ['a change by 0', one('at: command', 'do: change, xor: "0x0"'), 'changes nothing'],
    ['a change that keeps all', one('at: command', 'do: change, and: 0xffffffffffffffff'), 'changes nothing'],
    [
      'a change beyond the register',
      one('at: register, register: CR0, access: read', 'do: change, xor: 0x100000000'),
      '32 bits',
    ],
    ['a value beyond it', one('at: register, register: CR0, access: read', 'do: set, value: 0x100000000'), '32 bits'],
    [
      'a register beyond the frame',
      one('at: register, register: "0x9abcc", access: read', 'do: freeze'),
      'no register',
    ],
    [
      'an allocation at an address',
      one('at: pages, operation: allocate, address: 0', 'do: fail, error: ENOMEM'),
      'nobody',
    ],
    ['fields that no command has together', one('at: command, sid: 8, asid: 1', 'do: drop'), 'StreamID and ASID'],
    [
      'the Leaf bit of CFGI_STE_RANGE',
      one('at: command, command: CFGI_STE_RANGE, leaf: true', 'do: drop'),
      'no Leaf bit',
    ],
    ['word 1 of a descriptor', one('at: machine', 'do: corrupt, table: l1, sid: 8, word: 1, xor: 1'), '1 word'],
    [
      'more of stage 2 than can be looked at',
      one('at: table, table: stage2, address: { from: 0x40000000, size: 0x40000000 }', 'do: drop'),
      'page by page',
    ],
    ['a word that is not there', one('at: command', 'do: change, word: 2, xor: 1'), '2 words'],
    ['early without a CMD_SYNC', one('at: command, command: CFGI_STE', 'do: early'), 'CMD_SYNC alone'],
    ['stage 2 without an address', one('at: table, table: stage2', 'do: drop'), 'input address'],
    ['donate what', one('at: machine', 'do: donate'), 'either address'],
    ['an empty range', one('at: translate, address: { from: 4096, size: 0 }', 'do: abort'), 'empty'],
  ])('%s', (_name, text, message) => {
    expect(complaints(text).join('\n')).toContain(message)
  })

  test('a circle of rules, and a name twice', () => {
    const a = rule('at: command', 'do: irq, line: evtq', '{ after: b }', 'a')
    const b = rule('at: command', 'do: irq, line: evtq', '{ after: a }', 'b')
    expect(complaints(`rules:\n${a}${b}`).join()).toContain('waits for itself')
    expect(complaints(`rules:\n${b}${b}`).join()).toContain('already')
  })

  test.each([
    [{ until: 'mmio' }, 'at: command', 'do: drop', 'needs cmdq'],
    [{ until: 'cmdq' }, 'at: table, table: ste', 'do: drop', 'needs strtab'],
    [{ until: 'queues' }, 'at: table, table: stage2, address: 0x40000000', 'do: drop', 'needs nested'],
    [{ policy: 'passthrough' }, 'at: pages, operation: share', 'do: fail, error: EPERM', 'passthrough'],
    [{ translate: 'hardware' }, 'at: translate', 'do: abort', 'needs server'],
    [{ translate: 'hardware' }, 'at: transport, message: translate', 'do: delay, ms: 1', 'needs server'],
  ])('where the point does not exist: %j', (context, where, what, message) => {
    expect(complaints(one(where, what))).toEqual([])
    expect(complaints(one(where, what), context).join()).toContain(message)
  })

  test('two rules that decide the same outcome, unless something tells them apart', () => {
    const two = (where: string, other: string, when = '{}') =>
      complaints(`rules:\n${rule(where, 'do: drop', '{}', 'a')}${rule(other, 'do: drop', when, 'b')}`)
    const cr0 = 'at: register, register: CR0, access: write'
    expect(two(cr0, cr0).join()).toContain('which of the two decides?')
    expect(two(cr0, 'at: register, register: ARM_SMMU_CR0, access: write')).toHaveLength(1)
    expect(two(cr0, 'at: register, access: write')).toHaveLength(1)
    expect(two(cr0, 'at: register, register: CR1, access: write')).toEqual([])
    expect(two(cr0, cr0, '{ nth: 2 }')).toEqual([])
    expect(two(`${cr0}, mask: 1, value: 1`, `${cr0}, mask: 1, value: 0`)).toEqual([])
    expect(two('at: command, command: CFGI_STE', 'at: command, command: CMDQ_OP_CFGI_STE')).toHaveLength(1)
  })
})

describe('the catalogue', () => {
  test('has every kind of point and action, in at least 40 entries', () => {
    const entries = catalogue()
    expect(entries.length).toBeGreaterThanOrEqual(40)
    const rules = entries.flatMap(entry => entry.rules)
    expect(new Set(rules.map(({ where }) => where.at))).toEqual(new Set(POINTS.filter(point => point !== 'machine')))
    const missing = ACTIONS.filter(action => !rules.some(({ what }) => what.do === action))
    // A donation is taken back by hand.
    expect(missing).toEqual(['reclaim'])
  })

  test('expects every verdict that there is', () => {
    const expected = new Set(catalogue().flatMap(({ expect: verdict }) => verdict))
    expect(VERDICTS.filter(verdict => !expected.has(verdict))).toEqual([])
  })

  test('a name that is nearly right gets the right one', () => {
    expect(() => entryNamed('cr0ack-stuk')).toThrow(/did you mean cr0ack-stuck/)
  })

  test('is right by the schema that is published', () => {
    const check = new Ajv2020({ strict: false }).compile(JSON.parse(JSON.stringify(FileSchema)))
    expect(check({ entries: JSON.parse(JSON.stringify(catalogue())) }), JSON.stringify(check.errors)).toBe(true)
    expect(check({ rules: [{ name: 'a', where: { at: 'command' }, what: { do: 'dorp' } }] })).toBe(false)
  })

  test('the published schema is the one that is printed', () => {
    const printed = execFileSync(process.execPath, ['server/cli/main.ts', 'faults', 'schema'], { encoding: 'utf8' })
    expect(JSON.parse(printed)).toEqual(JSON.parse(readFileSync('server/faults/schema.json', 'utf8')))
  })
})

describe('whatever a file holds', () => {
  const junk = fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.json())

  test('it is taken, or refused with a place', () => {
    fc.assert(
      fc.property(junk, text => {
        for (const complaint of complaints(text)) expect(complaint).toMatch(/^[1-9]\d*:[1-9]\d*: ./)
      }),
      { numRuns: 500 },
    )
  })

  test('a right file with a part cut out, doubled or replaced', () => {
    const files = ['10-registers', '30-commands', '40-tables', '60-translations'].map(name =>
      readFileSync(`server/faults/catalogue/${name}.yaml`, 'utf8'),
    )
    fc.assert(
      fc.property(
        fc.constantFrom(...files),
        fc.nat(),
        fc.nat(80),
        fc.oneof(fc.constant(''), junk),
        (text, at, cut, put) => {
          const start = at % text.length
          for (const complaint of complaints(text.slice(0, start) + put + text.slice(start + cut))) {
            expect(complaint).toMatch(/^[1-9]\d*:[1-9]\d*: ./)
          }
        },
      ),
      { numRuns: 100 },
    )
  })

  test('any value at all where rules should be', () => {
    fc.assert(
      fc.property(fc.anything({ withNullPrototype: true }), value => void checkRules(value)),
      { numRuns: 500 },
    )
    fc.assert(
      fc.property(fc.array(fc.dictionary(fc.constantFrom('name', 'where', 'when', 'what'), fc.anything())), value => {
        expect(Array.isArray(checkRules(value))).toBe(true)
      }),
    )
  })
})
