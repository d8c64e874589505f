// SPDX-License-Identifier: Apache-2.0
/** Files of rules and of catalogue entries: YAML, of which JSON is a part. Every complaint has its place in the file. */
import { Composer, type Document, isMap, isNode, isPair, isScalar, isSeq, LineCounter, type Node, Parser } from 'yaml'
import { type CheckContext, checkEntry, checkRules, type Flaw } from './check.ts'
import type { CatalogueEntry, FaultRule } from './rule.ts'

/** Larger files are refused unread. */
export const MAX_FILE_BYTES = 1 << 20
const MAX_FLAWS = 50
/** So many are looked for in the file, to be told in its order: each costs a look at the keys around it. */
const MAX_PLACED = 500
/** Collections in each other, as the parser counts them; an entry's rules are ten deep. */
const MAX_DEPTH = 64
/** Words and marks of a file; the whole catalogue has fewer. */
const MAX_TOKENS = 100_000
const MAX_ALIASES = 100

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

/**
 * Reads here and now: for texts of our own. Those from elsewhere are read aside (loadAside.ts).
 * @param file name for complaints
 * @throws FaultFileError
 */
export function parseFile(text: string, file: string, context: CheckContext = {}): FaultFile {
  const lines = new LineCounter()
  const complain = (complaints: readonly Omit<Complaint, 'file'>[]): never => {
    throw new FaultFileError(complaints.slice(0, MAX_FLAWS).map(complaint => ({ file, ...complaint })))
  }
  const at = (offset: number, message: string): never => {
    const { line, col } = lines.linePos(offset)
    return complain([{ line, column: col, message }])
  }
  const document = parse(text, lines, at)
  const placed = ({ offset, message }: { offset: number; message: string }) => {
    const { line, col } = lines.linePos(offset)
    return { line, column: col, message }
  }
  // What is broken has no values that could be looked at.
  const broken = document.errors.map(({ pos: [offset], message }) => placed({ offset, message }))
  if (broken.length > 0) complain(broken)
  const twice = duplicateKeys(document.contents).map(key =>
    placed({ offset: key.range?.[0] ?? 0, message: `there is a "${String(key)}" here already` }),
  )
  let value: unknown
  try {
    value = plain(document.toJS({ maxAliasCount: MAX_ALIASES }))
  } catch (error) {
    complain([{ line: 1, column: 1, message: (error as Error).message }])
  }
  const flaws = check(value, context)
    .slice(0, MAX_PLACED)
    .map(flaw => ({ ...place(document, lines, flaw), message: worded(flaw) }))
  const all = [...twice, ...flaws].sort((a, b) => a.line - b.line || a.column - b.column)
  if (all.length > 0) complain(all)
  return value as FaultFile
}

/** Stops at what would cost the stack, or more time than anybody has. */
class BoundedParser extends Parser {
  #tokens = 0

  override *next(source: string): ReturnType<Parser['next']> {
    if (++this.#tokens > MAX_TOKENS) throw new RangeError(`more than ${MAX_TOKENS} words and marks`)
    yield* super.next(source)
    if (this.stack.length > MAX_DEPTH) throw new RangeError(`nested more than ${MAX_DEPTH} deep`)
  }
}

/** One document. @param at ends it with a complaint about a place */
function parse(text: string, lines: LineCounter, at: (offset: number, message: string) => never): Document {
  const parser = new BoundedParser(lines.addNewLine)
  // The composer compares every key of a map with every other; here each is looked up once.
  const composer = new Composer({ intAsBigInt: true, prettyErrors: false, logLevel: 'silent', uniqueKeys: false })
  let document: Document | undefined
  try {
    for (const next of composer.compose(parser.parse(text), true, text.length)) {
      if (document !== undefined) at(next.range[0], 'a second document: a file has one')
      document = next
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    at(parser.offset, error.message)
  }
  if (document === undefined) return at(0, 'there is nothing in it')
  return document
}

/** Keys that a map has already. */
function duplicateKeys(node: unknown): Node[] {
  if (isSeq(node)) return node.items.flatMap(duplicateKeys)
  if (!isMap(node)) return []
  const seen = new Set<unknown>()
  return node.items.flatMap(({ key, value }) => {
    const twice = isScalar(key) && seen.has(key.value) ? [key] : []
    if (isScalar(key)) seen.add(key.value)
    return [...twice, ...duplicateKeys(value)]
  })
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
