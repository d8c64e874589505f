// SPDX-License-Identifier: Apache-2.0
/** Tells of type errors in code that runs already: types are stripped when it is loaded, and nobody looked at them. */
import { type ChildProcess, spawn } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { LockedFolder } from '../machine/lockedFolder.ts'
import { ownFolder } from '../machine/scratch.ts'
import { compilerArguments, noCompiler, ROOT, typeErrors, writeProject } from './compiler.ts'

/** More errors than these are consequences of them. */
const MAX_REPORTED = 10

export interface TypeCheckOptions {
  /** The policy as the trap thread was given it: of a file, the file is checked too. */
  readonly policy: string
  readonly say: (line: string) => void
}

export class TypeCheck {
  readonly #say: (line: string) => void
  readonly #folder: LockedFolder
  readonly #onExit = () => this.close()
  #compiler: ChildProcess | undefined
  /** Files changed while the compiler was at work. */
  #again = false
  #errors = 0
  #closed = false

  constructor({ policy, say }: TypeCheckOptions) {
    this.#say = say
    this.#folder = ownFolder(tmpdir(), 'types-')
    writeProject(this.#folder.path, {
      compilerOptions: { incremental: true, tsBuildInfoFile: join(this.#folder.path, 'state') },
      include: [join(ROOT, 'server'), join(ROOT, 'protocol')],
      exclude: [join(ROOT, 'server/web')],
      files: policy.endsWith('.ts') ? [resolve(policy)] : [],
    })
    process.on('exit', this.#onExit)
  }

  /** Looks at the files as they are now, in the background and behind everything else that wants the processors. */
  check(): void {
    if (this.#closed) return
    this.#again = this.#compiler !== undefined
    if (this.#again) return
    const missing = noCompiler()
    if (missing !== null) return this.#say(missing)
    const args = ['-n', '19', process.execPath, ...compilerArguments(this.#folder.path)]
    // In a group of its own, because the compiler is a child of the program that starts it.
    const compiler = spawn('nice', args, { cwd: ROOT, detached: true, stdio: ['ignore', 'pipe', 'inherit'] })
    this.#compiler = compiler
    let output = ''
    compiler.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
    compiler.on('error', error => this.#say(`types are not checked: ${error.message}`))
    compiler.on('close', code => {
      this.#compiler = undefined
      if (this.#closed) return
      if (this.#again) this.check()
      else if (code !== 0 && output === '') this.#say(`types are not checked: the compiler ended with ${code}`)
      else this.#tell(output)
    })
  }

  #tell(output: string): void {
    const errors = typeErrors(output)
    for (const error of errors.slice(0, MAX_REPORTED)) this.#say(`type error: ${error}`)
    if (errors.length > MAX_REPORTED) this.#say(`type error: ${errors.length - MAX_REPORTED} more`)
    if (errors.length === 0 && this.#errors > 0) this.#say('type error: none any more')
    this.#errors = errors.length
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    process.off('exit', this.#onExit)
    if (this.#compiler?.pid !== undefined) {
      try {
        process.kill(-this.#compiler.pid, 'SIGKILL')
      } catch {} // it has ended by itself
    }
    this.#folder.remove()
  }
}
