// SPDX-License-Identifier: Apache-2.0
/** Whether rules are rules, name what there is, can ever match, and do not get in each other's way. */
import type { TSchema } from 'typebox'
import { Value as Typed } from 'typebox/value'
import { DESCRIPTIONS } from '../policy/builtin.ts'
import { SERIES_STEPS, type SeriesStep } from '../policy/policy.ts'
import { warningByCode } from '../policy/warnings.ts'
import { WITH_ADDRESS, WITH_ASID, WITH_LEAF, WITH_STREAM, WITH_VMID } from '../smmu/commandFields.ts'
import { commandNumber, eventNumber, nearest } from '../smmu/names.ts'
import { REGISTERS } from '../smmu/registers.ts'
import { FACILITY_NAMES, facilityOf } from './facility.ts'
import { LinePattern } from './linePattern.ts'
import { big, NAMES, rangeOf, register } from './names.ts'
import {
  type Action,
  type CatalogueEntry,
  EntrySchema,
  type FaultRule,
  FREE_ACTIONS,
  MAX_STAGE2_BYTES,
  type Point,
  RuleSchema,
  type Value,
  WHAT,
  WHERE,
  WhenSchema,
  type WhereOf,
} from './rule.ts'

/** What is wrong, and where in the value: keys and indices. */
export interface Flaw {
  readonly path: readonly (string | number)[]
  readonly message: string
  /** It is the key that is wrong, not what stands there. */
  readonly key?: boolean
}

/** The machine that rules are for; what is absent is not checked. */
export interface CheckContext {
  /** Of a policy without a name nothing is known before it runs: the trap thread checks the rest. */
  readonly policy?: string
  /** Prefix of the series. */
  readonly until?: SeriesStep
  readonly translate?: string
}

type Path = readonly (string | number)[]
type Fields = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const hint = (name: string, names: readonly string[]): string => {
  const near = nearest(name, names)
  return near === undefined ? `; there are ${names.join(', ')}` : `; did you mean ${near}?`
}

/** Fields of an object against a schema: unknown ones, missing ones, wrong ones. */
function checkFields(schema: TSchema, value: unknown, path: Path, flaws: Flaw[], skip: readonly string[] = []): void {
  const { properties, required = [] } = schema as { properties: Record<string, TSchema>; required?: readonly string[] }
  if (!isObject(value)) {
    flaws.push({ path, message: `expected an object with ${Object.keys(properties).join(', ')}` })
    return
  }
  for (const name of Object.keys(value)) {
    if (!Object.hasOwn(properties, name)) {
      flaws.push({
        path: [...path, name],
        message: `no field "${name}" here${hint(name, Object.keys(properties))}`,
        key: true,
      })
    }
  }
  for (const name of required) if (value[name] === undefined) flaws.push({ path, message: `"${name}" is missing` })
  for (const [name, part] of Object.entries(properties)) {
    if (value[name] === undefined || skip.includes(name)) continue
    checkValue(part, value[name], [...path, name], flaws)
  }
}

function checkValue(schema: TSchema, value: unknown, path: Path, flaws: Flaw[]): void {
  if (Typed.Check(schema, value)) return
  const { enum: choices, description } = schema as { enum?: readonly string[]; description?: string }
  const given: unknown = value
  const what = typeof given === 'string' ? `"${given.slice(0, 60)}"` : String(JSON.stringify(given)).slice(0, 60)
  if (choices !== undefined) {
    const names = choices.map(String)
    flaws.push({ path, message: `${what} is none of ${names.join(', ')}${near(String(value), names)}` })
    return
  }
  const [first] = Typed.Errors(schema, value)
  const reason = description === undefined || first === undefined ? (first?.message ?? 'not valid') : first.message
  flaws.push({ path, message: `${what}: ${reason}${description === undefined ? '' : ` (${description})`}` })
}

const near = (name: string, names: readonly string[]): string => {
  const found = nearest(name, names)
  return found === undefined ? '' : `; did you mean ${found}?`
}

/** One of several shapes, told apart by a field. */
function checkOneOf(
  shapes: Readonly<Record<string, TSchema>>,
  by: string,
  value: unknown,
  path: Path,
  flaws: Flaw[],
): void {
  const names = Object.keys(shapes)
  if (!isObject(value) || value[by] === undefined) {
    flaws.push({ path, message: `expected an object with "${by}": ${names.join(', ')}` })
    return
  }
  const name = String(value[by])
  const shape = Object.hasOwn(shapes, name) ? shapes[name] : undefined
  if (shape === undefined)
    flaws.push({ path: [...path, by], message: `no ${by} "${name.slice(0, 60)}"${hint(name, names)}` })
  else checkFields(shape, value, path, flaws)
}

function checkShape(value: unknown, path: Path, flaws: Flaw[]): void {
  checkFields(RuleSchema, value, path, flaws, ['where', 'when', 'what'])
  if (!isObject(value)) return
  if (value.where !== undefined) checkOneOf(WHERE, 'at', value.where, [...path, 'where'], flaws)
  if (value.what !== undefined) checkOneOf(WHAT, 'do', value.what, [...path, 'what'], flaws)
  if (value.when !== undefined) checkFields(WhenSchema, value.when, [...path, 'when'], flaws)
}

/** Actions that alter what takes place at a point. */
const ALTERING: Readonly<Record<Point, (where: never) => readonly Action[]>> = {
  register: ({ access }: WhereOf['register']) =>
    access === 'read' ? ['set', 'change', 'freeze', 'abort'] : ['set', 'change', 'drop', 'abort', 'postpone'],
  hardware: ({ access }: WhereOf['hardware']) =>
    access === 'read' ? ['set', 'change', 'freeze', 'abort'] : ['set', 'change', 'drop', 'abort'],
  command: () => ['drop', 'change', 'duplicate', 'reorder', 'defer', 'hang', 'early', 'cerror'],
  table: ({ table }: WhereOf['table']) =>
    table === 'cd' || table === 'host-l1'
      ? ['change']
      : table === 'host-ste'
        ? ['change', 'abort']
        : ['change', 'drop', 'abort'],
  translate: () => ['fault', 'abort', 'redirect', 'restrict'],
  event: () => ['change', 'drop'],
  pages: () => ['fail'],
  transport: () => [],
  el2: () => ['drop', 'change', 'postpone'],
  machine: () => [],
}

const altering = ({ where }: FaultRule): readonly Action[] => ALTERING[where.at](where as never)

/** 64-bit words of what `change` acts on; 0: it has no words. */
function words({ where }: FaultRule): number {
  switch (where.at) {
    case 'command':
      return 2
    case 'event':
      return 4
    case 'table':
      return where.table === 'ste' || where.table === 'host-ste' || where.table === 'cd' ? 8 : 1
    default:
      return 0
  }
}

/** Nobody asks the server for them but in translate mode server. */
export const aboutTranslations = ({ where }: FaultRule): boolean =>
  where.at === 'translate' || (where.at === 'transport' && where.message === 'translate')

const registerOf = (name: string | number) => {
  const offset = register(name)
  return REGISTERS.find(candidate => candidate.offset === offset)
}
const bitsOf = (name: string | number): number => registerOf(name)?.bits ?? 64

type CommandField = 'sid' | 'asid' | 'vmid' | 'address' | 'leaf'

/** Fields that a rule may look for, and the commands that have them. */
const COMMAND_FIELDS: Readonly<Record<CommandField, { readonly opcodes: ReadonlySet<number>; readonly name: string }>> =
  {
    sid: { opcodes: WITH_STREAM, name: 'StreamID' },
    asid: { opcodes: WITH_ASID, name: 'ASID' },
    vmid: { opcodes: WITH_VMID, name: 'VMID' },
    address: { opcodes: WITH_ADDRESS, name: 'address' },
    leaf: { opcodes: WITH_LEAF, name: 'Leaf bit' },
  }

/** Names are looked at in rules of any shape, so that a wrong field hides no wrong name. */
function checkName(
  name: unknown,
  kind: keyof typeof NAMES,
  number: (name: string) => unknown,
  path: Path,
  flaws: Flaw[],
): void {
  if (typeof name !== 'string' || number(name) !== undefined) return
  const bare = name.toUpperCase().replace(/^(ARM_SMMU_|CMDQ_OP_|EVT_ID_)/, '')
  flaws.push({ path, message: `no ${kind} "${name.slice(0, 60)}"${near(bare, NAMES[kind])}` })
}

/** Of registers, commands and events. */
function checkNames(rule: Fields, path: Path, flaws: Flaw[]): void {
  const where = isObject(rule.where) ? rule.where : {}
  const what = isObject(rule.what) ? rule.what : {}
  checkName(where.register, 'register', register, [...path, 'where', 'register'], flaws)
  checkName(where.command, 'command', commandNumber, [...path, 'where', 'command'], flaws)
  checkName(where.event, 'event', eventNumber, [...path, 'where', 'event'], flaws)
  if (what.do === 'fault' || what.do === 'event')
    checkName(what.event, 'event', eventNumber, [...path, 'what', 'event'], flaws)
}

type Part = 'where' | 'when' | 'what'

/**
 * What the fields of a rule say together. Those that are wrong by themselves are left out, and so is every complaint that would only follow
 * from one of them.
 */
class RuleCheck {
  readonly #flaws: Flaw[]
  readonly #path: Path
  /** Without the fields that are wrong. */
  readonly #rule: FaultRule
  /** Parts in which a field is wrong, unknown or missing. */
  readonly #flawed: ReadonlySet<unknown>
  readonly #hasWhere: boolean
  readonly #hasWhat: boolean

  /** @param flaws what is wrong with the fields by themselves; the rest is added */
  constructor(rule: Fields, path: Path, flaws: Flaw[]) {
    const wrong = flaws.map(flaw => flaw.path.slice(path.length))
    const sound = (part: Part): Fields => {
      const fields = isObject(rule[part]) ? Object.entries(rule[part]) : []
      return Object.fromEntries(fields.filter(([name]) => !wrong.some(([p, field]) => p === part && field === name)))
    }
    const [where, what] = [sound('where'), sound('what')]
    // Whoever reads a field that may be left out asks #known first.
    this.#rule = { ...rule, where, what, when: sound('when') } as unknown as FaultRule
    this.#hasWhere = where.at !== undefined
    this.#hasWhat = what.do !== undefined
    this.#flawed = new Set(wrong.map(([part]) => part))
    this.#path = path
    this.#flaws = flaws
  }

  /** Whether fields are what they are meant to be: they may also be absent on purpose. */
  #known(part: Part, ...names: readonly string[]): boolean {
    const fields = this.#rule[part] as Fields
    return !this.#flawed.has(part) || names.every(name => fields[name] !== undefined)
  }

  #flaw(at: readonly (string | number)[], message: string): void {
    this.#flaws.push({ path: [...this.#path, ...at], message })
  }

  run(context: CheckContext): void {
    const possible = !this.#hasWhere || !this.#hasWhat || this.#possible()
    if (possible && this.#hasWhat) {
      this.#needs()
      this.#change()
    }
    if (possible && this.#hasWhere && this.#hasWhat) this.#fitting()
    this.#when()
    if (this.#hasWhere) this.#matchable()
    if (this.#hasWhat) this.#warning(context.policy)
    if (this.#hasWhere && this.#hasWhat) this.#context(context)
  }

  /** @returns whether the action may be one of the point */
  #possible(): boolean {
    const { where, what } = this.#rule
    const possible = altering(this.#rule)
    if (FREE_ACTIONS.has(what.do) || possible.includes(what.do) || !this.#known('where', 'access', 'table')) return true
    const side = 'access' in where && where.access !== undefined ? ` ${where.access}` : ''
    const all = [...possible, ...FREE_ACTIONS].join(', ')
    this.#flaw(['what', 'do'], `${what.do} is nothing that a ${where.at}${side} can do; there are ${all}`)
    return false
  }

  /** What an action needs to be told. */
  #needs(): void {
    const { what } = this.#rule
    if (what.do === 'redirect' && (what.address === undefined) === (what.xor === undefined)) {
      if (this.#known('what', 'address', 'xor')) this.#flaw(['what'], 'redirect needs either address or xor')
    }
    if (what.do === 'donate' && (what.address === undefined) === (what.sid === undefined || what.iova === undefined)) {
      if (this.#known('what', 'address', 'sid', 'iova'))
        this.#flaw(['what'], 'donate needs either address, or sid and iova')
    }
    if (what.do === 'corrupt' && what.table === 'stage2' && what.address === undefined) {
      if (this.#known('what', 'address')) this.#flaw(['what'], 'corrupt of stage2 needs the input address')
    }
    if (what.do === 'corrupt' && what.table !== 'stage2' && what.sid === undefined) {
      if (this.#known('what', 'table', 'sid')) this.#flaw(['what'], `corrupt of ${what.table} needs a sid`)
    }
    if (what.do === 'gerror' && what.error !== undefined && this.#known('what', 'bits')) {
      if (!what.bits.includes('CMDQ_ERR'))
        this.#flaw(['what', 'error'], 'CMDQ_CONS.ERR says something with CMDQ_ERR only')
    }
  }

  /** What an action can do at the point where it stands. */
  #fitting(): void {
    const { where, what } = this.#rule
    if (what.do === 'change' && what.word !== undefined && what.word >= words(this.#rule)) {
      if (this.#known('where', 'table'))
        this.#flaw(['what', 'word'], `a ${where.at} has ${words(this.#rule) || 'no'} words`)
    }
    if (
      what.do === 'early' &&
      (where.at !== 'command' || commandNumber(where.command ?? '') !== commandNumber('CMD_SYNC'))
    ) {
      if (this.#known('where', 'command')) this.#flaw(['what', 'do'], 'early is for CMD_SYNC alone')
    }
    if (what.do === 'cerror' && where.at === 'command' && where.queue === 'shadow' && what.error !== 'ILL') {
      if (this.#known('what', 'error'))
        this.#flaw(['what', 'error'], 'in the shadow queue the hardware itself finds the error: only ILL can be caused')
    }
  }

  /** What is changed is changed, and what is set fits. */
  #change(): void {
    const { where, what } = this.#rule
    // What is corrupted is a table, wherever the rule stands.
    const about = (where.at === 'register' || where.at === 'hardware') && what.do !== 'corrupt'
    const register = about ? where.register : undefined
    const bits = BigInt(register === undefined ? 64 : bitsOf(register))
    const all = (1n << bits) - 1n
    const fits = (field: string, value: Value | undefined) => {
      if (value !== undefined && big(value) > all) {
        this.#flaw(['what', field], `more than the ${bits} bits of ${register}`)
      }
    }
    if (what.do === 'set') fits('value', what.value)
    if (what.do !== 'change' && what.do !== 'corrupt') return
    const keeps = what.and === undefined || (big(what.and) & all) === all
    if (keeps && big(what.or ?? 0) === 0n && big(what.xor ?? 0) === 0n && this.#known('what', 'and', 'or', 'xor')) {
      this.#flaw(['what'], `${what.do} needs and, or, or xor, or it changes nothing`)
    }
    fits('or', what.or)
    fits('xor', what.xor)
    if (what.do === 'corrupt' && what.table !== 'ste' && what.word !== undefined && what.word > 0) {
      if (this.#known('what', 'table')) this.#flaw(['what', 'word'], `a descriptor of ${what.table} has 1 word`)
    }
  }

  #when(): void {
    const { when, name } = this.#rule
    if (when === undefined) return
    const { nth, skip, times, after, console, probability } = when
    if (nth !== undefined && (skip !== undefined || times !== undefined)) {
      this.#flaw(['when', 'nth'], 'nth is one match: it goes with neither skip nor times')
    }
    if (probability === 0) this.#flaw(['when', 'probability'], 'with probability 0 it never fires')
    if (after === name) this.#flaw(['when', 'after'], 'a rule cannot wait for itself')
    if (console === undefined) return
    try {
      new LinePattern(console)
    } catch (error) {
      this.#flaw(['when', 'console'], (error as Error).message)
    }
  }

  /** What can never be. */
  #matchable(): void {
    const { where } = this.#rule
    if (where.at === 'register' || where.at === 'hardware') {
      const found = where.register === undefined ? undefined : registerOf(where.register)
      if (where.access === 'write' && found?.access === 'RO') {
        this.#flaw(['where', 'access'], `${found.name} is read-only: nobody writes it`)
      }
      this.#values(where, found?.bits ?? 64)
    }
    if (where.at === 'table' && where.table === 'stage2') {
      if (where.address === undefined && this.#known('where', 'address'))
        this.#flaw(['where'], 'stage2 needs the input address')
      if (where.sid !== undefined) this.#flaw(['where', 'sid'], 'stage 2 is one for all streams')
    } else if (where.at === 'table' && where.address !== undefined && this.#known('where', 'table')) {
      this.#flaw(['where', 'address'], `a ${where.table} belongs to a stream, not to an address`)
    }
    if (where.at === 'command') this.#commandFields(where)
    if (where.at === 'pages' && where.operation === 'allocate' && where.address !== undefined) {
      this.#flaw(['where', 'address'], 'nobody asks for hypervisor memory at an address')
    }
    if ('address' in where && where.address !== undefined) {
      const { from, end } = rangeOf(where.address)
      if (end <= from) this.#flaw(['where', 'address'], 'the range is empty')
      if (where.at === 'table' && end - from > MAX_STAGE2_BYTES) {
        this.#flaw(
          ['where', 'address'],
          `a range of stage 2 is looked at page by page: at most ${MAX_STAGE2_BYTES} bytes`,
        )
      }
    }
  }

  #values({ mask, value }: { mask?: Value; value?: Value }, bits: number): void {
    const limit = 1n << BigInt(bits)
    if (mask !== undefined && value === undefined && this.#known('where', 'value'))
      this.#flaw(['where', 'mask'], 'a mask without a value says nothing')
    if (value === undefined) return
    if (big(value) >= limit)
      this.#flaw(['where', 'value'], `more than the ${bits} bits of the register: it never matches`)
    if (mask !== undefined && (big(value) & ~big(mask)) !== 0n) {
      this.#flaw(['where', 'value'], 'has bits that the mask leaves out: it never matches')
    }
  }

  #commandFields(where: WhereOf['command']): void {
    const opcode = where.command === undefined ? undefined : commandNumber(where.command)
    if (where.command !== undefined && opcode === undefined) return
    const fields = Object.entries(COMMAND_FIELDS).filter(([field]) => where[field as CommandField] !== undefined)
    if (opcode !== undefined) {
      for (const [field, { opcodes, name }] of fields) {
        if (!opcodes.has(opcode)) this.#flaw(['where', field], `${where.command} has no ${name}: it never matches`)
      }
      return
    }
    const [last] = fields.at(-1) ?? []
    const [first = new Set<number>(), ...others] = fields.map(([, { opcodes }]) => opcodes)
    if (last !== undefined && ![...first].some(code => others.every(opcodes => opcodes.has(code)))) {
      const names = fields.map(([, { name }]) => name).join(' and ')
      this.#flaw(['where', last], `no command has ${names}: it never matches`)
    }
  }

  /** A warning that the policy has, or any policy when none is given. */
  #warning(policy: string | undefined): void {
    const { what } = this.#rule
    if (what.do !== 'warn') return
    const tables = policy === undefined ? [...DESCRIPTIONS.values()] : [DESCRIPTIONS.get(policy)]
    if (tables.some(known => known === undefined || warningByCode(known.warnings, what.warning) !== undefined)) return
    const codes = tables.flatMap(known => known?.warnings.map(({ code }) => code) ?? [])
    this.#flaw(['what', 'warning'], `no warning "${what.warning}"${near(what.warning.toUpperCase(), codes)}`)
  }

  #context({ policy, until, translate }: CheckContext): void {
    const certain = this.#known('where', 'table', 'operation') && this.#known('what', 'table')
    const needed = certain ? facilityOf(this.#rule) : undefined
    // Without a policy it is the one that has everything.
    const description = DESCRIPTIONS.get(policy ?? 'pkvm')
    if (needed !== undefined && description !== undefined) {
      const has = (step?: SeriesStep) =>
        description.facilities(step === undefined ? {} : { until: step }).includes(needed)
      const step = SERIES_STEPS.find(has)
      if (step === undefined) {
        this.#flaw(['where', 'at'], `policy ${policy} lacks what this needs: ${FACILITY_NAMES[needed]}`)
      } else if (!has(until)) {
        this.#flaw(['where', 'at'], `in the prefix ${until} there is no such thing: it needs ${step}`)
      }
    }
    if (aboutTranslations(this.#rule) && translate !== undefined && translate !== 'server') {
      this.#flaw(['where', 'at'], `in translate mode ${translate} the answer is the hardware's: it needs server`)
    }
  }
}

/** What of a rule of any shape says in which order it acts. */
function orderOf(rule: unknown): { readonly name?: string; readonly after?: string } {
  const { name, when } = isObject(rule) ? rule : {}
  const after = isObject(when) ? when.after : undefined
  return { ...(typeof name === 'string' && { name }), ...(typeof after === 'string' && { after }) }
}

/** `after`: known rules, and no cycles. */
function checkOrder(all: readonly unknown[], path: Path, flaws: Flaw[]): void {
  const rules = all.map(orderOf)
  const names = rules.flatMap(({ name }) => name ?? [])
  for (const [i, { name, after }] of rules.entries()) {
    if (name !== undefined && rules.findIndex(other => other.name === name) !== i)
      flaws.push({ path: [...path, i, 'name'], message: `there is a rule "${name}" already` })
    if (name === undefined || after === undefined) continue
    const at = [...path, i, 'when', 'after']
    if (!names.includes(after)) flaws.push({ path: at, message: `no rule "${after}"${near(after, names)}` })
    const seen = new Set([name])
    for (let next: string | undefined = after; next !== undefined; ) {
      if (seen.has(next)) {
        if (next === name && after !== name)
          flaws.push({ path: at, message: `"${name}" waits for itself, by way of "${after}"` })
        break
      }
      seen.add(next)
      const current: string = next
      next = rules.find(rule => rule.name === current)?.after
    }
  }
}

/** A rule and its number in the list. */
interface Numbered {
  readonly rule: FaultRule
  readonly i: number
}

/** Two rules that would decide the same outcome at the same moments. */
function checkOverlaps(rules: readonly Numbered[], path: Path, flaws: Flaw[]): void {
  const deciding = rules.filter(({ rule }) => !FREE_ACTIONS.has(rule.what.do))
  for (const [n, { rule, i }] of deciding.entries()) {
    const other = deciding.slice(0, n).find(before => overlap(before.rule, rule))
    if (other === undefined) continue
    const message = `"${other.rule.name}" acts at the same place under the same conditions: which of the two decides?`
    flaws.push({ path: [...path, i, 'where'], message })
  }
}

/** Fields of `where` that are one value, normalised where there are several ways to write it. */
function key(where: FaultRule['where'], field: string): unknown {
  const value = (where as Fields)[field]
  if (value === undefined) return field === 'queue' ? 'host' : undefined
  if (field === 'register') return register(value as string | number)
  if (field === 'command') return commandNumber(String(value))
  if (field === 'event') return eventNumber(String(value))
  return value
}

function overlap(a: FaultRule, b: FaultRule): boolean {
  if (a.where.at !== b.where.at) return false
  if (JSON.stringify(sorted(a.when)) !== JSON.stringify(sorted(b.when))) return false
  for (const field of ['access', 'register', 'smmu', 'cpu', 'command', 'queue', 'table', 'sid', 'event', 'operation']) {
    const [x, y] = [key(a.where, field), key(b.where, field)]
    if (x !== undefined && y !== undefined && x !== y) return false
  }
  for (const field of ['asid', 'vmid', 'leaf', 'message']) {
    const [x, y] = [key(a.where, field), key(b.where, field)]
    if (x !== undefined && y !== undefined && x !== y) return false
  }
  const [x, y] = [a.where, b.where] as { value?: Value; mask?: Value }[]
  if (x?.value !== undefined && y?.value !== undefined) {
    const common = big(x.mask ?? '0xffffffffffffffff') & big(y.mask ?? '0xffffffffffffffff')
    if (((big(x.value) ^ big(y.value)) & common) !== 0n) return false
  }
  const [p, q] = [a.where, b.where] as { address?: never }[]
  if (p?.address !== undefined && q?.address !== undefined) {
    const [r, s] = [rangeOf(p.address), rangeOf(q.address)]
    if (r.end <= s.from || s.end <= r.from) return false
  }
  // Different words of one entry, and the changes of one word, go together.
  return !(a.what.do === 'change' && b.what.do === 'change')
}

const sorted = (when: FaultRule['when']) => Object.entries(when ?? {}).sort(([a], [b]) => (a < b ? -1 : 1))

/** What is wrong with a list of rules. */
export function checkRules(value: unknown, context: CheckContext = {}, path: Path = []): Flaw[] {
  const flaws: Flaw[] = []
  const sound: Numbered[] = []
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_RULES) {
    return [{ path, message: `expected a list of 1 to ${MAX_RULES} rules` }]
  }
  for (const [i, rule] of value.entries()) {
    const at = [...path, i]
    const own: Flaw[] = []
    checkShape(rule, at, own)
    if (isObject(rule)) {
      checkNames(rule, at, own)
      new RuleCheck(rule, at, own).run(context)
    }
    if (own.length === 0) sound.push({ rule: rule as FaultRule, i })
    flaws.push(...own)
  }
  checkOrder(value, path, flaws)
  checkOverlaps(sound, path, flaws)
  return flaws
}

/** Most rules that can be armed at a time. */
export const MAX_RULES = 64

/** What is wrong with a catalogue entry. */
export function checkEntry(value: unknown, path: Path = []): Flaw[] {
  const flaws: Flaw[] = []
  checkFields(EntrySchema, value, path, flaws, ['rules', 'session'])
  if (!isObject(value)) return flaws
  const before = flaws.length
  if (value.session !== undefined) {
    const session = (EntrySchema as unknown as { properties: { session: TSchema } }).properties.session
    checkFields(session, value.session, [...path, 'session'], flaws)
  }
  // Of a session that is wrong nothing is known of what the rules can do.
  const known = flaws.length === before
  const session = value.session as CatalogueEntry['session']
  const context = {
    policy: 'pkvm',
    ...(known && { until: session?.until ?? 'nested', translate: session?.translate ?? 'hardware' }),
  }
  if (value.rules !== undefined) flaws.push(...checkRules(value.rules, context, [...path, 'rules']))
  return flaws
}
