// SPDX-License-Identifier: Apache-2.0
/** Lists of known weaknesses, and the one that is kept here with its cases. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Case, decodeCase, encodeCase, performCase } from '../../../server/attack/cases.ts'
import { kindsOf, mended, readKnown } from '../../../server/attack/known.ts'
import { pkvm } from '../../../server/hypervisor/pkvm/policy.ts'
import type { PolicyFactory } from '../../../server/policy/policy.ts'
import { OPEN, PLAIN, RAM } from './support.ts'

const whole: PolicyFactory = (machine, context) => pkvm(machine, context)

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cosim-known-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

function file(value: unknown): string {
  const path = join(folder, 'known.json')
  writeFileSync(path, JSON.stringify(value))
  return path
}

describe('a list', () => {
  test('says what is known of which machine', () => {
    const list = readKnown(
      file({
        weaknesses: [
          { kind: 'a', why: 'always' },
          { kind: 'b', why: 'with MSIs or ATS', hardware: ['msi', 'ats'] },
          { kind: 'c', why: 'after a firmware', firmware: ['on'] },
        ],
      }),
    )
    expect([...kindsOf(list, PLAIN)]).toEqual(['a'])
    expect([...kindsOf(list, { ...PLAIN, hardware: ['ats'] })]).toEqual(['a', 'b'])
    expect([...kindsOf(list, { ...PLAIN, hardware: ['pri'], firmware: 'on' })]).toEqual(['a', 'c'])
  })

  test.each([
    ['no list', {}],
    ['no reason', { weaknesses: [{ kind: 'a' }] }],
    ['unknown hardware', { weaknesses: [{ kind: 'a', why: 'b', hardware: ['x'] }] }],
    ['something else', { weaknesses: [{ kind: 'a', why: 'b', where: 'c' }] }],
  ])('with %s is refused', (_, value) => expect(() => readKnown(file(value))).toThrow(/known\.json: \//))

  test('that is no JSON, a folder, or names no case says which file', () => {
    writeFileSync(join(folder, 'known.json'), '{')
    expect(() => readKnown(join(folder, 'known.json'))).toThrow(/known\.json: /)
    expect(() => readKnown(folder)).toThrow(`${folder}: not a regular file`)
    const path = file({ weaknesses: [{ kind: 'a', why: 'b', case: 'gone.json' }] })
    expect(() => mended(path, readKnown(path), whole)).toThrow(`${join(folder, 'gone.json')}: ENOENT`)
  })

  test('tells what does not show any more', () => {
    const case_: Case = {
      ...{ kind: 'guard', message: '', policy: 'pkvm', mode: 'hostile', seed: 0, setup: PLAIN },
      steps: [{ do: 'donate', base: RAM, size: 4096, vm: 1 }],
    }
    writeFileSync(join(folder, 'guard.json'), encodeCase(case_))
    const path = file({
      weaknesses: [
        { kind: 'guard', why: 'planted', case: 'guard.json' },
        { kind: 'b', why: 'without a case' },
      ],
    })
    expect(mended(path, readKnown(path), OPEN)).toEqual([])
    expect(mended(path, readKnown(path), whole).map(({ kind }) => kind)).toEqual(['guard'])
    // Of a policy that claims nothing, finding nothing says nothing.
    writeFileSync(join(folder, 'guard.json'), encodeCase({ ...case_, setup: { ...PLAIN, until: 'mmio' } }))
    expect(mended(path, readKnown(path), whole)).toEqual([])
  })
})

describe('the list of what is known of pkvm', () => {
  const ROOT = fileURLToPath(new URL('../../attack/', import.meta.url))
  const list = readKnown(join(ROOT, 'known.json'))
  const files = readdirSync(join(ROOT, 'cases')).sort()
  const load = (name: string) => decodeCase(readFileSync(join(ROOT, 'cases', name), 'utf8'), name)

  test('names cases that are there', () => {
    for (const { kind, case: path } of list)
      if (path !== undefined) expect(load(path.replace('cases/', '')).kind).toBe(kind)
  })

  // A weakness that was mended does not come back: its case stays when it is taken off the list.
  test.each(files)('%s shows nothing but what is known', name => {
    const case_ = load(name)
    const known = kindsOf(list, case_.setup)
    const { finding, judged } = performCase(case_, whole)
    expect(judged).toBe(true)
    if (finding !== undefined) expect([...known]).toContain(finding.kind)
  })
})
