// SPDX-License-Identifier: Apache-2.0
import { render } from 'preact'
import { App } from './app.tsx'
import { listenForKeys } from './shortcuts.ts'
import { startLive } from './store.ts'
import './style.css'

startLive()
listenForKeys()
const root = document.getElementById('app')
if (root) render(<App />, root)
