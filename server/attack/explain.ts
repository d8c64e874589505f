// SPDX-License-Identifier: Apache-2.0
/**
 * A case in words: each step, where in the hypervisor's source it was decided, what the hypervisor warned about (the real one would have
 * stopped there), and the walk that reached the page.
 */
import { fileURLToPath } from 'node:url'
import { type PolicyFactory, withQuirks } from '../policy/policy.ts'
import { describeStep as describeWalkStep } from '../smmu/walkSteps.ts'
import type { Case } from './cases.ts'
import { transactionOf } from './devices.ts'
import { Stage } from './program.ts'
import { describeStep } from './steps.ts'
import { audit } from './tables.ts'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))

/** What a policy reaches memory and registers by; it decides nothing. */
const ACCESSORS: ReadonlySet<string> = new Set(
  ['common/hardwareFrame.ts', 'common/wait.ts', 'pkvm/tableMemory.ts'].map(file => `server/hypervisor/${file}`),
)
const NOT_RULES = ['server/attack/', 'server/smmu/']
/** Frames of a stack that are looked at: rules may be far from the access. */
const DEPTH = 40

/** The line of the policy that makes an access: the first one of the stack that only a rule can be. */
function decider(): string | undefined {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = DEPTH
  const { stack = '' } = new Error()
  Error.stackTraceLimit = stackTraceLimit
  for (const line of stack.split('\n').slice(1)) {
    const place = /\(?((?:file:\/\/)?\/[^()]*):(\d+):\d+\)?$/.exec(line.trim())
    if (place === null) continue
    const path = place[1].startsWith('file:') ? fileURLToPath(place[1]) : place[1]
    const file = path.startsWith(ROOT) ? path.slice(ROOT.length) : path
    if (!ACCESSORS.has(file) && !NOT_RULES.some(folder => file.startsWith(folder))) return `${file}:${place[2]}`
  }
  return undefined
}

/** Nothing was found, and nothing could be. */
export const UNJUDGED = 'nothing was judged: the policy has no second stage, or refused the machine'

/** Lines that explain a case: they follow its steps. */
export function explain(case_: Case, factory: PolicyFactory): string[] {
  const stage = new Stage(case_.setup, case_.mode, withQuirks(factory, case_.quirks))
  const { world } = stage
  world.restart(case_.seed)
  const lines: string[] = []
  let last: string | undefined
  for (const [i, step] of case_.steps.entries()) {
    last = undefined
    world.onAccess = () => {
      last = decider() ?? last
    }
    const warned = world.feedback.warnings.length
    world.perform(step)
    world.onAccess = undefined
    lines.push(`${i}: ${describeStep(step)}${last === undefined ? '' : ` (decided at ${last})`}`)
    for (const { code, expected } of world.feedback.warnings.slice(warned)) {
      lines.push(`   ${code}${expected ? ', which is expected' : `: the series panics at step ${i}`}`)
    }
    if (world.oracle.finding !== undefined) break
  }
  if (world.oracle.finding === undefined) audit(world)
  const { finding } = world.oracle
  lines.push(
    finding === undefined ? (world.oracle.claims ? 'nothing is found' : UNJUDGED) : `found: ${finding.message}`,
  )
  const step = finding && case_.steps[finding.step]
  if (step?.do === 'dma' && step.how !== 'translated') {
    lines.push('the tables in memory:')
    world.smmus[step.smmu]?.walk(transactionOf(step), walked => lines.push(`   ${describeWalkStep(walked)}`))
  }
  return lines
}
