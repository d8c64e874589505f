// SPDX-License-Identifier: Apache-2.0
/** The one attack of a server, in a process of its own: started, watched, stopped. What it says is kept within bounds. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { AttackOptions, Progress } from '../attack/attack.ts'
import { FEATURES } from '../attack/feedback.ts'
import type { FoundInWords, ProcessMessage } from '../attack/process.ts'
import { DESCRIPTIONS } from '../policy/builtin.ts'
import { blocksProblem, checkQuirks, powerProblem, stage2Problem } from '../policy/policy.ts'
import { DEFAULTS } from '../run/options.ts'
import { Feed } from './feed.ts'
import { Problem } from './problem.ts'
import type { AttackBody, AttackRunItem, AttackRunView } from './schemas/attack.ts'
import { OWN_POLICY } from './schemas/lifecycle.ts'

const PROCESS = fileURLToPath(new URL('../attack/process.ts', import.meta.url))
const DEFAULT_SECONDS = 60
/** Findings that are kept: the last ones. */
const MAX_FINDINGS = 100
/** Longest words of the process that are kept. */
const MAX_ERRORS = 4_000
/** Time for the program that a thread is at, and more than the attack itself gives it, ms. */
const STOP_MS = 15_000
/** Of the server's own options for Node, those that confine it. */
const CONFINES = /^--(permission$|allow-|disable-warning=)/

const NOTHING: Progress = {
  ...{ operations: 0, steps: 0, programs: 0, judged: 0, lost: 0, coverage: [], corpus: 0, cases: 0, seconds: 0 },
}

interface Kept extends FoundInWords {
  readonly n: number
}

export class AttackRun {
  readonly feed = new Feed<AttackRunItem>(100)
  /** A policy file, attacked as `own`. */
  readonly #policyFile: string | undefined
  #child: ChildProcess | undefined
  #ended: Promise<void> = Promise.resolve()
  #state: AttackRunView['state'] = 'none'
  #run = 0
  #options: AttackBody | null = null
  #startedAt: string | null = null
  #message: string | null = null
  /** It said that it came to its end. */
  #done = false
  #progress = NOTHING
  #findings: Kept[] = []
  #found = 0

  constructor(policyFile?: string) {
    this.#policyFile = policyFile
    this.#changed()
  }

  view(): AttackRunView {
    const { operations, steps, programs, judged, lost, coverage, corpus, seconds } = this.#progress
    return {
      ...{ state: this.#state, run: this.#run, options: this.#options, startedAt: this.#startedAt },
      ...{ message: this.#message, seconds, operations, steps, programs, judged, corpus, lost },
      coverage: FEATURES.map((what, i) => ({ what, count: coverage[i] ?? 0 })),
      findings: this.#findings.map(({ n, kind, message, seconds }) => ({ n, kind, message, seconds })),
      found: this.#found,
    }
  }

  /** @throws Problem */
  finding(n: number): Kept {
    const found = this.#findings.find(kept => kept.n === n)
    if (found === undefined) throw new Problem(404, `no finding ${n} is kept`)
    return found
  }

  /** @throws Problem when one runs, or the options make no sense */
  start(body: AttackBody): void {
    if (this.#child !== undefined) throw new Problem(409, 'an attack runs already')
    const options = this.#optionsOf(body)
    const child = fork(PROCESS, [], {
      execArgv: process.execArgv.filter(word => CONFINES.test(word)),
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    this.#child = child
    this.#run++
    this.#state = 'running'
    this.#options = { ...body, seed: options.seed }
    this.#startedAt = new Date().toISOString()
    this.#message = null
    this.#done = false
    this.#progress = NOTHING
    this.#findings = []
    this.#found = 0
    let errors = ''
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(-MAX_ERRORS)
    })
    child.on('message', (message: ProcessMessage) => this.#take(message))
    this.#ended = new Promise(resolve => {
      const end = (why: string) => {
        if (this.#child !== child) return
        this.#child = undefined
        // One that is being stopped may have been killed.
        const good = this.#done || this.#state === 'stopping'
        this.#state = good ? 'done' : 'failed'
        if (!good) this.#message ??= why
        this.#changed()
        resolve()
      }
      child.on('error', error => end(error.message))
      child.on('exit', (code, signal) => end(`its process ended with ${signal ?? code}: ${errors.trim().slice(-500)}`))
    })
    child.send(options)
    this.#changed()
  }

  /** What is found by then is told. @throws Problem when none runs */
  async stop(): Promise<void> {
    const child = this.#child
    if (child === undefined) throw new Problem(409, 'no attack runs')
    if (this.#state === 'running') {
      this.#state = 'stopping'
      this.#changed()
      if (child.connected) child.send('stop', () => {})
    }
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS)
    await this.#ended
    clearTimeout(late)
  }

  /** The server ends, and nobody is left to be told: nothing is waited for. */
  async close(): Promise<void> {
    if (this.#child === undefined) return
    this.#state = 'stopping'
    this.#child.kill('SIGKILL')
    await this.#ended
  }

  /** @throws Problem */
  #optionsOf(body: AttackBody): AttackOptions {
    const { policy = DEFAULTS.policy, until = DEFAULTS.until, quirks = [], hardware = [] } = body
    const { blocks = false, bbm, power, stage2, populate } = body
    const builtIn = policy !== OWN_POLICY
    const mode = power === 'any' ? undefined : power
    const problem =
      blocksProblem(policy, builtIn, { blocks, ...(bbm !== undefined && { bbm }) }) ??
      powerProblem(policy, builtIn, power === undefined ? {} : { power: mode ?? 'keep' }) ??
      stage2Problem(policy, builtIn, true, {
        ...{ until, blocks, ...(power !== undefined && { power: mode ?? 'keep' }) },
        ...{ ...(stage2 && { stage2 }), ...(populate && { populate }) },
      })
    if (problem !== undefined) throw new Problem(422, problem)
    const { seconds = DEFAULT_SECONDS, seed = Math.floor(Math.random() * 2 ** 32), jobs = 1 } = body
    const file = policy === OWN_POLICY ? this.#policyFile : policy
    if (file === undefined) throw new Problem(422, 'the server was started without a policy file')
    try {
      if (policy !== OWN_POLICY) checkQuirks(policy, DESCRIPTIONS.get(policy)?.quirks ?? {}, quirks)
    } catch (error) {
      throw new Problem(422, (error as Error).message)
    }
    return {
      ...{ policy: file, until, quirks, hardware, seconds, seed, jobs },
      ...(blocks && { blocks: { bbm } }),
      ...(power !== undefined && { power: { mode } }),
      ...(stage2 === 'shared' && { shared: { populate } }),
      ...{ operations: undefined, corpus: undefined, known: undefined },
    }
  }

  #take(message: ProcessMessage): void {
    switch (message.type) {
      case 'progress':
        this.#progress = message.progress
        break
      case 'found':
        this.#findings = [...this.#findings, { ...message.found, n: ++this.#found }].slice(-MAX_FINDINGS)
        break
      case 'done':
        this.#done = true
        break
      case 'failed':
        this.#message = message.message
        break
    }
    this.#changed()
  }

  #changed(): void {
    this.feed.push({ attack: this.view() })
  }
}
