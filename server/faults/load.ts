// SPDX-License-Identifier: Apache-2.0
/** Files of rules and of catalogue entries: YAML, of which JSON is a part. Every complaint has its place in the file. */
import { readFileSync, statSync } from 'node:fs'
import { type Document, isMap, isNode, isPair, isScalar, LineCounter, type Node, parseDocument } from 'yaml'
import { type CheckContext, checkEntry, checkRules, type Flaw } from './check.ts'
import type { CatalogueEntry, FaultRule } from './rule.ts'

/** Larger files are refused unread. */
export const MAX_FILE_BYTES = 1 << 20
const MAX_FLAWS = 50

/** One complaint: `file:line:column: message`. */
export interface Complaint {
  readonly file: string
  readonly line: number
  readonly column: number
  readonly message: string
}

/** A file that cannot be used, with everything that is wrong with it. */
export class FaultFileError extends Error {
  override readonly name = 'FaultFileError'
  readonly complaints: readonly Complaint[]

  constructor(complaints: readonly Complaint[]) {
    super(complaints.map(({ file, line, column, message }) => `${file}:${line}:${column}: ${message}`).join('\n'))
    this.complaints = complaints
  }
}

/** What a file holds. */
export interface FaultFile {
  /** Of a file of rules, one entry without expectations. */
  readonly rules?: readonly FaultRule[]
  readonly entries?: readonly CatalogueEntry[]
}

/** @throws FaultFileError, or the file system's error in words */
export function loadFile(path: string, context: CheckContext = {}): FaultFile {
  const { size } = statSync(path)
  if (size > MAX_FILE_BYTES) {
    throw new FaultFileError([{ file: path, line: 1, column: 1, message: `${size} bytes, at most ${MAX_FILE_BYTES}` }])
  }
  return parseFile(readFileSync(path, 'utf8'), path, context)
}

/**
 * @param file name for complaints
 * @throws FaultFileError
 */
export function parseFile(text: string, file: string, context: CheckContext = {}): FaultFile {
  const lines = new LineCounter()
  const complain = (complaints: readonly Omit<Complaint, 'file'>[]): never => {
    throw new FaultFileError(complaints.slice(0, MAX_FLAWS).map(complaint => ({ file, ...complaint })))
  }
  const document = parseDocument(text, {
    lineCounter: lines,
    intAsBigInt: true,
    prettyErrors: false,
    logLevel: 'silent',
  })
  const [broken] = document.errors
  if (broken !== undefined) {
    const { line, col } = lines.linePos(broken.pos[0])
    complain(document.errors.map(({ message }) => ({ line, column: col, message })).slice(0, 1))
  }
  let value: unknown
  try {
    value = plain(document.toJS({ maxAliasCount: 100 }))
  } catch (error) {
    complain([{ line: 1, column: 1, message: (error as Error).message }])
  }
  const flaws = check(value, context)
  if (flaws.length > 0) complain(flaws.map(flaw => ({ ...place(document, lines, flaw), message: worded(flaw) })))
  return value as FaultFile
}

function check(value: unknown, context: CheckContext): Flaw[] {
  const { rules, entries } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const unknown = Object.keys((value ?? {}) as object).filter(name => name !== 'rules' && name !== 'entries')
  if ((rules === undefined) === (entries === undefined) || typeof value !== 'object') {
    return [
      { path: [], message: 'expected either "rules:" with a list of rules, or "entries:" with catalogue entries' },
    ]
  }
  const flaws: Flaw[] = unknown.map(name => ({ path: [name], message: `no field "${name}" here`, key: true }))
  if (rules !== undefined) return [...flaws, ...checkRules(rules, context, ['rules'])]
  if (!Array.isArray(entries) || entries.length === 0) return [{ path: ['entries'], message: 'expected a list' }]
  const names = new Set<unknown>()
  for (const [i, entry] of entries.entries()) {
    flaws.push(...checkEntry(entry, ['entries', i]))
    const { name } = (entry ?? {}) as { name?: unknown }
    if (names.has(name)) flaws.push({ path: ['entries', i, 'name'], message: `there is an entry "${name}" already` })
    names.add(name)
  }
  return flaws
}

const worded = ({ path, message }: Flaw): string => (path.length === 0 ? message : `${pathText(path)}: ${message}`)

/** `rules[2].where.register` */
export function pathText(path: Flaw['path']): string {
  return path.map((part, i) => (typeof part === 'number' ? `[${part}]` : i === 0 ? part : `.${part}`)).join('')
}

/** Where a flaw stands: its key, its value, or what comes nearest around it. */
function place(document: Document, lines: LineCounter, { path, key }: Flaw): { line: number; column: number } {
  for (let length = path.length; length >= 0; length--) {
    const node = length === path.length && key ? keyNode(document, path) : nodeAt(document, path.slice(0, length))
    const start = node?.range?.[0]
    if (start === undefined) continue
    const { line, col } = lines.linePos(start)
    return { line, column: col }
  }
  return { line: 1, column: 1 }
}

function nodeAt(document: Document, path: readonly (string | number)[]): Node | undefined {
  const node = path.length === 0 ? document.contents : document.getIn(path, true)
  return isNode(node) ? node : undefined
}

function keyNode(document: Document, path: readonly (string | number)[]): Node | undefined {
  const map = nodeAt(document, path.slice(0, -1))
  if (!isMap(map)) return undefined
  const pair = map.items.find(item => isPair(item) && isScalar(item.key) && item.key.value === path.at(-1))
  return isNode(pair?.key) ? pair.key : undefined
}

/** Integers as rules have them: numbers where they are exact, else text. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') {
    if (value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value)
    return value > 0n ? `0x${value.toString(16)}` : Number(value)
  }
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]))
}
